"""Networks of the toolbox on inputs that they trip over."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
import torchvision
from basicsr.archs import arch_util, basicvsrpp_arch
from basicsr.archs.basicvsrpp_arch import BasicVSRPlusPlus
from basicsr.archs.spynet_arch import SpyNet
from basicsr.archs.tof_arch import SPyNetTOF
from torch.nn import functional as F

from basicsr_plugins.compat.rebind import replaced, wrap
from basicsr_plugins.errors import InputError, one_line
from basicsr_plugins.ops.deform_conv import modulated_deform_conv2d
from basicsr_plugins.ops.finite import sample_finite

SPYNET_MIN_SIZE = 64  # six levels: the coarsest of a 64 px frame is 2 px, of a smaller one too small to enlarge


def spynet_small_frames() -> None:
    """Let SpyNet, and so every network with it, take frames under 64 px.

    At 32 px and less BasicSR's SpyNet fails in every version: the coarsest level is one pixel, and its flow none. Such
    frames are padded by their border pixels to 64 px, and the flow is cropped.
    """

    def make(original):
        def forward(self, ref, supp):
            h, w = ref.shape[-2:]
            if min(h, w) > SPYNET_MIN_SIZE // 2:
                return original(self, ref, supp)
            pad = (0, max(SPYNET_MIN_SIZE - w, 0), 0, max(SPYNET_MIN_SIZE - h, 0))
            flow = original(self, F.pad(ref, pad, mode='replicate'), F.pad(supp, pad, mode='replicate'))
            return flow[..., :h, :w]

        return forward

    wrap(SpyNet, 'forward', make)


def spynet_weights() -> None:
    """Let `SpyNet(load_path)` take weights saved from a SpyNet, and say what is wrong with others.

    The published file holds the constants `mean` and `std` too, as any SpyNet that is saved does; BasicSR loads it in
    every version before it registers these: RuntimeError about unexpected keys.
    """

    def make(original):
        def init(self, load_path=None):
            original(self)
            if not load_path:
                return
            if not Path(load_path).is_file():
                raise InputError(
                    f'spynet_path: there is no file {load_path}; docs/training.md says where the weights come from.'
                )
            try:
                weights = torch.load(load_path, map_location='cpu', weights_only=True)['params']
                self.load_state_dict({**self.state_dict(), **weights})
            except Exception as error:  # whatever torch's readers raise on another file
                raise InputError(
                    f'spynet_path: {load_path} does not hold SpyNet weights of BasicSR ({one_line(error)[:200]}).'
                ) from error

        return init

    wrap(SpyNet, '__init__', make)


def basicvsrpp_alignment() -> None:
    """Give BasicVSR++ its deformable alignment without CUDA too.

    BasicSR leaves it out where there is no CUDA, in every version: another network with fewer parameters, into which no
    trained weights load. torchvision's deformable convolution, which it uses, works on the CPU.
    """

    def make(original):
        def init(self, *args, **kwargs):
            with replaced(torch.cuda, 'is_available', lambda: True):
                original(self, *args, **kwargs)

        return init

    wrap(BasicVSRPlusPlus, '__init__', make)


def deform_conv() -> None:
    """Let EDVR and BasicVSR++ use the fastest modulated deformable convolution that there is.

    BasicSR calls torchvision's in every version, which on a CPU takes five times as long as it must, and twelve times
    with gradients (`scripts/benchmark_ops.py`). All backends agree to float32 rounding.
    """

    def deform_conv2d(x, offset, weight, bias=None, stride=1, padding=0, dilation=1, mask=None):
        taps = weight.size(2) * weight.size(3)
        return modulated_deform_conv2d(
            x, offset, mask, weight, bias, stride, padding, dilation, deform_groups=offset.size(1) // (2 * taps)
        )

    for module in (arch_util, basicvsrpp_arch):
        if isinstance(module.torchvision, ModuleType):
            module.torchvision = SimpleNamespace(
                __version__=torchvision.__version__, ops=SimpleNamespace(deform_conv2d=deform_conv2d)
            )


def flow_precision() -> None:
    """Keep flow in float32 under autocast, and NaN in it away from operators that crash.

    BasicSR's flow networks and `flow_warp` follow autocast, in every version, where coordinates beyond 256 are no whole
    pixels any more. On a CPU NaN in a flow kills the process (`ops.finite`). With CUDA the grid of `flow_warp` is made on
    the CPU, and its copy waits for the device at each call.
    """

    def make_estimate(original):
        def estimate(self, *frames):
            with _without_autocast(frames[0]):
                return original(self, *map(_at_least_float32, frames))

        return estimate

    def make_warp(original):
        def warp(x, flow, *args, **kwargs):
            def sample(flow):
                return original(_at_least_float32(x), flow, *args, **kwargs)

            on_device = x.device if x.is_cuda else contextlib.nullcontext()
            with _without_autocast(x), on_device:
                return sample_finite(sample, _at_least_float32(flow)).to(x.dtype)

        return warp

    wrap(SpyNet, 'process', make_estimate)
    wrap(SPyNetTOF, 'forward', make_estimate)
    wrap(arch_util, 'flow_warp', make_warp)


def _without_autocast(x: torch.Tensor) -> contextlib.AbstractContextManager:
    kind = x.device.type
    asked = not x.is_meta and torch.is_autocast_enabled(kind)  # autocast knows no meta device
    return torch.autocast(kind, enabled=False) if asked else contextlib.nullcontext()


def _at_least_float32(x: torch.Tensor) -> torch.Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def meshgrid_warning() -> None:
    """Silence the warning that `flow_warp` brings at its first call.

    BasicSR calls `torch.meshgrid` without `indexing`, which PyTorch warns about from 1.10 on; the order that it gets is
    the one that it wants.
    """
    warnings.filterwarnings('ignore', message='torch.meshgrid: in an upcoming release')


PATCHES = (spynet_small_frames, spynet_weights, flow_precision, basicvsrpp_alignment, deform_conv, meshgrid_warning)
