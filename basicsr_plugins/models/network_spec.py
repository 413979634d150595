"""What the package may ask about a network, in one place.

A network says it by attributes, of its class or of the instance, which have the names of `NetworkSpec`'s fields; all of
them may be left out. The toolbox's networks, and classes derived from them, are described in `TOOLBOX` below.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from fractions import Fraction

from basicsr.archs.basicvsr_arch import BasicVSR, IconVSR
from basicsr.archs.basicvsrpp_arch import BasicVSRPlusPlus
from basicsr.archs.duf_arch import DUF
from basicsr.archs.ecbsr_arch import ECBSR
from basicsr.archs.edsr_arch import EDSR
from basicsr.archs.edvr_arch import EDVR
from basicsr.archs.rcan_arch import RCAN
from basicsr.archs.ridnet_arch import RIDNet
from basicsr.archs.rrdbnet_arch import RRDBNet
from basicsr.archs.spynet_arch import SpyNet
from basicsr.archs.srresnet_arch import MSRResNet
from basicsr.archs.srvgg_arch import SRVGGNetCompact
from basicsr.archs.swinir_arch import SwinIR
from basicsr.archs.tof_arch import SPyNetTOF, TOFlow
from torch import nn

from basicsr_plugins.archs.basicvsr_steps import BasicVSRSteps
from basicsr_plugins.archs.recurrent import Steps
from basicsr_plugins.errors import InputError
from basicsr_plugins.scales import MAX_SCALE, Scale, describe_scale, per_axis, whole_factor

CHOICES = {'input_type': ('sequence', 'window', 'image'), 'lq': ('lr', 'bicubic'), 'colour': ('rgb', 'y')}


@dataclass(frozen=True)
class NetworkSpec:
    """A network's description.

    Args:
        name: Of its class, for messages.
        input_type: What one forward takes. `sequence`: (b, t, 3, h, w) -> (b, t, 3, s * h, s * w). `window`:
            (b, n, 3, h, w) -> (b, 3, s * h, s * w), the centre frame. `image`: (b, 3, h, w) -> (b, 3, s * h, s * w).
        num_frame: n of a window; else 1.
        scale: s, a factor, or two, vertical and horizontal; None where the network does not say.
        scales: Factors that its class can be built for; empty where it does not say.
        scale_range: The least and the greatest factor of a network that takes any between, also different ones for
            height and width; None where `scale` is all it can.
        trained_scales: The least and the greatest factor that its weights are trained for, where it says so.
        size_multiple: Height and width of what it takes must divide by it.
        min_size: The least height and width of what it takes.
        min_frames: The least t of a sequence.
        lq: `lr`, or `bicubic` for frames that are bicubically enlarged first.
        colour: `rgb`, or `y` for luma alone, (.., 1, h, w) -> (.., 1, s * h, s * w).
        estimates_flow: Whether it estimates optical flow, which needs float32.
        time_scale: 2 where t frames become 2 * t - 1.
        takes_places: Whether its forward takes `places`, the parts to make, as a network with steps says by its steps.
        steps: How it runs step by step; None where it does not.
    """

    name: str
    input_type: str = 'sequence'
    num_frame: int = 1
    scale: Scale | None = None
    scales: tuple[int, ...] = ()
    scale_range: tuple[float, float] | None = None
    trained_scales: tuple[float, float] | None = None
    size_multiple: int = 1
    min_size: int = 1
    min_frames: int = 1
    lq: str = 'lr'
    colour: str = 'rgb'
    estimates_flow: bool = False
    time_scale: int = 1
    takes_places: bool = False
    steps: Steps | None = None

    def num_output(self, num_frame: int) -> int:
        """How many frames it makes of so many, one or more."""
        return self.time_scale * (num_frame - 1) + 1

    @property
    def lr_multiple(self) -> int:
        """As `size_multiple`, in pixels of LR frames, which may be enlarged before the network takes them."""
        factor = whole_factor(self.scale) if self.lq == 'bicubic' else None
        return self.size_multiple // math.gcd(self.size_multiple, factor or 1)

    def can_scale(self, scale: Scale) -> bool:
        """Whether the network makes a scale, as it is or set to it by `fit_scale`."""
        if self.scale_range is not None:
            return all(self.scale_range[0] <= factor <= self.scale_range[1] for factor in per_axis(scale))
        return self.scale is None or per_axis(self.scale) == per_axis(scale)


FIELDS = tuple(field.name for field in fields(NetworkSpec) if field.name not in ('name', 'steps'))


def spec_of(net: nn.Module) -> NetworkSpec:
    """Describe a network (not wrapped by DistributedDataParallel).

    Raises:
        InputError: If it says something that is none of the choices.
    """
    name = type(net).__name__
    described = _describe_toolbox(net)
    steps = described.pop('steps', net if isinstance(net, Steps) else None)
    described.setdefault('estimates_flow', _has_flow(net, steps))
    said = {field: getattr(net, field) for field in FIELDS if hasattr(net, field)}
    if not isinstance(said.get('scale', 1), (int, float, Fraction, tuple, list)):  # of attention, a parameter
        del said['scale']
    spec = NetworkSpec(name, steps=steps, **{**described, **said})
    if spec.lq == 'bicubic' and spec.scale_range is None:  # what is enlarged before may be so by any factor
        spec = replace(spec, scale_range=(1, MAX_SCALE))
    for key, choices in CHOICES.items():
        if getattr(spec, key) not in choices:
            raise InputError(f'{name}: {key} is {getattr(spec, key)!r}, but must be one of {", ".join(choices)}.')
    return spec


def fit_scale(net: nn.Module, scale: Scale) -> bool:
    """Set a run's scale in a network that takes any.

    Returns:
        Whether the network makes that scale; the others have their own.
    """
    spec = spec_of(net)
    fits = spec.can_scale(scale)
    if fits and spec.scale_range is not None:
        net.scale = scale
    return fits


def require_scale(net: nn.Module, scale: Scale) -> None:
    """As `fit_scale`, of a network that must make that scale.

    Raises:
        InputError: If it does not; with the factors that it does.
    """
    if fit_scale(net, scale):
        return
    spec, asked = spec_of(net), describe_scale(scale)
    if spec.scale_range is not None:
        least, greatest = spec.scale_range
        raise InputError(f'scale is {asked}, but {spec.name} upscales by factors from {least:g} to {greatest:g}.')
    raise InputError(f'scale is {asked}, but {spec.name} upscales by {own_scales(spec)}; BasicAVSR takes any.')


def own_scales(spec: NetworkSpec) -> str:
    """The scale of a network that has one, and those that its class can be built for."""
    others = f' (it can be built for {", ".join(map(str, spec.scales))})' if len(spec.scales) > 1 else ''
    return f'{describe_scale(spec.scale)}{others}'


def untrained_note(net: nn.Module, scale: Scale) -> list[str]:
    """A sentence where a scale lies outside those that a network's weights are trained for."""
    spec = spec_of(net)
    least, greatest = spec.trained_scales or (0, math.inf)
    if all(least <= factor <= greatest for factor in per_axis(scale)):
        return []
    return [
        f'{spec.name} is trained for factors from {least:g} to {greatest:g}, but upscales by '
        f'{describe_scale(scale)} here.'
    ]


def _has_flow(net: nn.Module, steps: Steps | None) -> bool:
    return (steps is not None and steps.has_step('flow')) or any(
        isinstance(module, (SpyNet, SPyNetTOF)) for module in net.modules()
    )


# ---------------------------------------------------------------------------- the toolbox's networks


def _describe_toolbox(net: nn.Module) -> dict:
    for kind, describe in TOOLBOX.items():
        if isinstance(net, kind):
            return describe(net)
    if any(kind.__module__.split('.')[0] == 'basicsr' for kind in type(net).__mro__):
        return {'input_type': 'image'}
    return {}


def _basicvsr(net: BasicVSR) -> dict:
    described = {'scale': 4}
    if type(net).forward is BasicVSR.forward:
        described['steps'] = BasicVSRSteps(net)
    return described


def _basicvsrpp(net: BasicVSRPlusPlus) -> dict:
    """Where it takes HR frames, it works on a quarter of their size."""
    factor = 1 if net.is_low_res_input else 4
    return {'scale': 4 // factor, 'min_size': 64 * factor, 'size_multiple': factor}


def _edvr(net: EDVR) -> dict:
    """EDVR keeps its window length in its fusion layer only, and its pyramid needs sides that divide by 4."""
    fusion = net.fusion.feat_fusion if net.with_tsa else net.fusion
    num_frame = fusion.in_channels // net.upconv1.in_channels
    if num_frame % 2 == 0 or net.center_frame_idx != num_frame // 2:
        raise InputError(
            f'EDVR: frame {net.center_frame_idx} of {num_frame} is not the centre of the window; '
            'num_frame must be odd and center_frame_idx its middle.'
        )
    factor = 4 if net.hr_in else 1
    return {'input_type': 'window', 'num_frame': num_frame, 'scale': 4 // factor, 'size_multiple': 4 * factor}


def _toflow(net: TOFlow) -> dict:
    return {'input_type': 'window', 'num_frame': 7, 'scale': 4, 'lq': 'bicubic', 'size_multiple': 16}


def _swinir(net: SwinIR) -> dict:
    windows = [module.window_size for module in net.modules() if isinstance(getattr(module, 'window_size', None), int)]
    scales = {'pixelshuffle': (2, 3, 4, 8), 'pixelshuffledirect': (2, 3, 4, 8), 'nearest+conv': (4,)}
    return {
        'input_type': 'image',
        'scale': net.upscale if net.upsampler else 1,
        'scales': scales.get(net.upsampler, (1,)),
        'size_multiple': max(windows),
    }


def _shuffled(net: nn.Module) -> dict:
    factors = [module.upscale_factor for module in net.modules() if isinstance(module, nn.PixelShuffle)]
    return {'input_type': 'image', 'scale': math.prod(factors), 'scales': (2, 3, 4, 8)}


TOOLBOX: dict[type, Callable[[nn.Module], dict]] = {
    BasicVSR: _basicvsr,
    # it mirrors the windows of its EDVR at the ends
    IconVSR: lambda net: {'scale': 4, 'min_frames': 2 * net.temporal_padding + 1},
    BasicVSRPlusPlus: _basicvsrpp,
    EDVR: _edvr,
    TOFlow: _toflow,
    DUF: lambda net: {'input_type': 'window', 'num_frame': 7, 'scale': net.scale, 'scales': (2, 3, 4)},
    SwinIR: _swinir,
    EDSR: _shuffled,
    RCAN: _shuffled,
    MSRResNet: lambda net: {'input_type': 'image', 'scale': net.upscale, 'scales': (2, 3, 4)},
    RRDBNet: lambda net: {
        'input_type': 'image',
        'scale': net.scale,
        'scales': (1, 2, 4),
        'size_multiple': {1: 4, 2: 2}.get(net.scale, 1),
    },
    SRVGGNetCompact: lambda net: {'input_type': 'image', 'scale': net.upscale, 'scales': (2, 3, 4)},
    ECBSR: lambda net: {
        'input_type': 'image',
        'scale': net.scale,
        'scales': (2, 3, 4),
        'colour': 'y' if net.num_in_ch == 1 else 'rgb',
    },
    RIDNet: lambda net: {'input_type': 'image', 'scale': 1},
}
