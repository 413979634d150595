"""What a network costs: parameters, multiply-adds, seconds and memory.

`MACS_METHOD`, `TIME_METHOD` and `MEMORY_METHOD` say in a sentence or two, for the foot of a report, how it is measured.
"""

from __future__ import annotations

import copy
import math
import re
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext

import torch
import torchvision  # noqa: F401  (brings torch.ops.torchvision.deform_conv2d)
from basicsr.utils.matlab_functions import calculate_weights_indices
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from basicsr_plugins.archs import bicubic_arch, sub_pixel
from basicsr_plugins.compat.rebind import replaced
from basicsr_plugins.errors import InputError, one_line
from basicsr_plugins.memory import synchronize
from basicsr_plugins.models.restoration import restore_frames
from basicsr_plugins.ops import deform_conv

MACS_METHOD = (
    'Multiply-adds are those of one LR frame in the middle of a long clip: what 21 frames take more than 11, divided '
    'by 10. Counted are the products of convolutions, transposed convolutions and matrix products, and for each sample '
    'read between pixels 4 (bilinear) or 16 (bicubic). A deformable convolution has the products of a convolution and, '
    'for each input channel, tap and output pixel, 4 for the sample and 1 for its mask. MATLAB-like bicubic upsampling '
    'has 4 for each pass, along the height and along the width. Additions of bias, activations, normalisation and '
    'other elementwise operations are not counted.'
)
TIME_METHOD = (
    'Seconds per frame are the wall time of restoring a clip of {num_frame} random frames, ends included, divided by '
    'its frames; the median of {repeat} passes after one that is not timed. Bicubic, and the upsampling of what TOFlow '
    "takes, is the toolbox's imresize on the CPU whatever the device."
)
MEMORY_METHOD = (
    'Peak memory is that of restoring the same clip of {num_frame} frames, on top of what is in use before (the '
    "weights among it): on CUDA of tensors, on the CPU of the process. A recurrent network's grows with the clip."
)

LONG, SHORT = 21, 11  # frames; they differ by two distances of IconVSR's keyframes


def count_parameters(net: nn.Module) -> int:
    """Elements of all parameters, trained or not; buffers are none."""
    return sum(parameter.numel() for parameter in net.parameters())


def count_macs(net: nn.Module, size: tuple[int, int] = (180, 320)) -> int:
    """Multiply-adds per LR frame in the steady state of a long clip, as `MACS_METHOD` defines them.

    A copy of the network restores clips on the meta device, where tensors have shapes and no data, so that neither
    computing time nor memory is needed, and `net` stays as it is. What a network does on the CPU meanwhile (MATLAB's
    bicubic upsampling) is computed on zeros and counted as well, and a branch that depends on data is taken as for
    zeros.

    Args:
        net: A network that `restore_frames` knows how to feed.
        size: (h, w) of the LR frame.

    Raises:
        InputError: If the network needs data to run, or does something that multiplies and that is not known here.
    """
    copied = _copy_to_meta(net).eval()
    return round((_count_clip(copied, LONG, size) - _count_clip(copied, SHORT, size)) / (LONG - SHORT))


def seconds_per_frame(net: nn.Module, size: tuple[int, int] = (180, 320), num_frame: int = 5, repeat: int = 3) -> float:
    """Wall time of `restore_frames` per frame on the network's device, as `TIME_METHOD` defines it.

    Args:
        net: A network that `restore_frames` knows how to feed.
        size: (h, w) of the LR frame.
        num_frame: Frames of the clip, 5 or more for IconVSR.
        repeat: Timed passes.
    """
    device = next((tensor.device for tensor in (*net.parameters(), *net.buffers())), torch.device('cpu'))
    frames = torch.rand(num_frame, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)
    times = []
    with _evaluating(net):
        for _ in range(1 + repeat):
            synchronize(device)
            start = time.perf_counter()
            _exhaust(restore_frames(net, frames))
            synchronize(device)
            times.append(time.perf_counter() - start)
    return statistics.median(times[1:]) / num_frame  # the first pass allocates and chooses algorithms


def _exhaust(iterator):
    for _ in iterator:
        pass


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; afterwards each module is in the mode it was in."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


# --------------------------------------------------------------------------------------------- counting multiply-adds


def _copy_to_meta(net: nn.Module) -> nn.Module:
    """A copy of a network whose tensors have shapes, but no data."""
    attributes = [value for module in net.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    copies = {id(tensor): tensor.detach().to('meta') for tensor in (*net.buffers(), *attributes)}
    copies.update((id(p), nn.Parameter(p.detach().to('meta'), requires_grad=False)) for p in net.parameters())
    return copy.deepcopy(net, memo=copies)


def _count_clip(net: nn.Module, t: int, size: tuple[int, int]) -> int:
    """Multiply-adds of restoring t frames with a network on the meta device."""
    counter = MacCounter()
    try:
        with torch.no_grad(), _functions_for_meta_tensors(counter), counter:
            _exhaust(restore_frames(net, torch.empty(t, 3, *size, device='meta')))
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f'{type(net).__name__}: multiply-adds cannot be counted, because it does not restore frames of '
            f'{size[0]}x{size[1]} without data ({one_line(error)}).'
        ) from error
    return counter.macs


@contextmanager
def _functions_for_meta_tensors(counter: MacCounter) -> Iterator[None]:
    """Replace functions that a network would call by others that make the same of tensors without data."""

    def imresize(img, scale, antialiasing=True):
        counter.macs += _imresize_macs(img.shape, scale, antialiasing)
        return img.new_zeros(img.shape[0], *(math.ceil(length * scale) for length in img.shape[1:]))

    def make_bicubic(images, place):
        height, width = (span.stop - span.start for span in place)
        out = images.new_zeros(*images.shape[:-2], height, width)
        counter.macs += 4 * (out.numel() + out[..., 0].numel() * images.size(-1))  # 4 taps along each side
        return out

    with ExitStack() as stack:
        # one for all backends: our own would be counted by its steps, and mmcv's knows no shapes without data
        backends = dict.fromkeys(deform_conv._BACKENDS, deform_conv._torchvision)
        stack.enter_context(replaced(deform_conv, '_BACKENDS', backends))
        # blocks have kernels with zeros, which are no arithmetic of the network
        stack.enter_context(replaced(sub_pixel, 'conv_in_blocks', lambda conv, x, side: conv(x)))
        stack.enter_context(
            replaced(sub_pixel, 'conv_of_shuffled', lambda conv, x, side: conv(F.pixel_shuffle(x, side)))
        )
        # the toolbox's goes line by line, which takes a second for each frame
        stack.enter_context(replaced(bicubic_arch, 'imresize', imresize))
        stack.enter_context(replaced(bicubic_arch, 'make_bicubic', make_bicubic))
        # knows no meta device, and changes no shape
        stack.enter_context(replaced(torch, 'autocast', lambda *args, **kwargs: nullcontext()))
        yield


def _imresize_macs(shape: tuple[int, int, int], scale: float, antialiasing: bool) -> int:
    """Multiply-adds of the toolbox's `imresize`: one pass along the height, then one along the width."""
    c, h, w = shape
    out_h, out_w = math.ceil(h * scale), math.ceil(w * scale)
    taps_h, taps_w = (
        calculate_weights_indices(length, out_length, scale, 'cubic', 4, antialiasing)[0].size(1)
        for length, out_length in ((h, out_h), (w, out_w))
    )
    return c * out_h * (w * taps_h + out_w * taps_w)


class MacCounter(TorchDispatchMode):
    """Counts the multiply-adds of the operations in its context, and lets programs run on the meta device to the end.

    Convolutions, matrix products and attention count by PyTorch's formulas, those of `FlopCounterMode`.

    Meta tensors have no values. Where a program asks for one it gets 0 or False, and where it copies a tensor to
    another device, zeros: what is done next is the same whatever the values.

    Attributes:
        macs: Multiply-adds so far.
    """

    def __init__(self):
        super().__init__()
        self.macs = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs: Mapping | None = None):
        kwargs = kwargs or {}
        name = str(function.overloadpacket)  # such as aten.convolution
        formula = flop_registry.get(function.overloadpacket)
        if name not in _COUNTS and formula is None and _MULTIPLIES.search(name):
            raise InputError(f'multiply-adds of the operation {name} cannot be counted.')
        if name == 'aten._local_scalar_dense' and args[0].is_meta:
            return torch.zeros((), dtype=args[0].dtype).item()
        if name == 'aten._to_copy' and args[0].is_meta and torch.device(kwargs.get('device') or 'meta').type != 'meta':
            return torch.zeros(args[0].shape, dtype=kwargs.get('dtype') or args[0].dtype, device=kwargs['device'])
        if name == 'aten.grid_sampler_2d' and args[0].is_meta:  # PyTorch runs its arithmetic to find the shape
            out = args[0].new_empty(*args[0].shape[:2], *args[1].shape[1:3])
        else:
            out = function(*args, **kwargs)
        if name in _COUNTS:
            self.macs += _COUNTS[name](out, *args)
        elif formula is not None:
            self.macs += formula(*args, **kwargs, out_val=out) // 2  # a multiply-add is two of PyTorch's operations
        return out


def _grid_sample(out, x, grid, interpolation, *_):
    """Interpolation 0 is bilinear (trilinear where frames are volumes), 1 nearest, 2 bicubic."""
    return out.numel() * {0: 2 ** (x.dim() - 2), 1: 0, 2: 16}[interpolation]


def _deform_conv(out, x, weight, offset, mask, bias, *geometry):
    use_mask = geometry[-1]
    samples = x.shape[0] * x.shape[1] * math.prod(weight.shape[2:]) * math.prod(out.shape[2:])
    return out.numel() * math.prod(weight.shape[1:]) + samples * (5 if use_mask else 4)


def _per_output(macs):
    return lambda out, *_: out.numel() * macs


_COUNTS = {  # what PyTorch's counter leaves out
    'aten.mv': lambda out, matrix, vector: matrix.numel(),
    'aten.dot': lambda out, left, right: left.numel(),
    'aten.addmv': lambda out, summand, matrix, *_: matrix.numel(),
    'aten.grid_sampler_2d': _grid_sample,
    'aten.grid_sampler_3d': _grid_sample,
    'torchvision.deform_conv2d': _deform_conv,
    'aten.upsample_bilinear2d': _per_output(4),
    'aten._upsample_bilinear2d_aa': _per_output(4),
    'aten.upsample_bicubic2d': _per_output(16),
    'aten._upsample_bicubic2d_aa': _per_output(16),
    'aten.upsample_nearest1d': _per_output(0),
    'aten.upsample_nearest2d': _per_output(0),
    'aten.upsample_nearest3d': _per_output(0),
    'aten._upsample_nearest_exact2d': _per_output(0),
}
_MULTIPLIES = re.compile(r'conv|mm$|mv$|einsum|attention|lstm|gru|rnn|linear|grid_sampler|upsample')  # and not counted
