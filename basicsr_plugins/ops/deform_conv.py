"""The one interface to modulated deformable convolution (DCNv2, Zhu et al. 2019, https://arxiv.org/abs/1811.11168).

A convolution whose taps are moved by `offset` and scaled by `mask` at each output pixel; a moved tap is read
bilinearly, with zeros outside the frame. The backends agree to float32 rounding, in the result and in all gradients:

- `torchvision`: `torchvision.ops.deform_conv2d`;
- `mmcv`: mmcv-full 1.x or mmcv 2.x, where it is installed with its operators (`scripts/install_mmcv.sh`);
- `pytorch`: our own, in PyTorch's operations, in two ways: on a CPU, where `WIDE` or more channels share an offset, by
  sums of pixels (`gathered_deform_conv.py`), else by samples of tiles (`tiled_deform_conv.py`). Both hold the
  columns (kh * kw times the features) of a part of the frame only, backward too, so they need the least memory as well.

`scripts/benchmark_ops.py` times them side by side. Where backend='auto', the environment variable `BASICSR_PLUGINS_DCN`
names the backend, and without it `select_backend` does.

Offsets are differentiable between whole pixels only. On a whole pixel, where EFAR's offsets start, all backends give
the derivative towards larger coordinates; mmcv gives 0 instead at exactly -1, the tap just outside the frame.

Shape shorthand in this module:
    b: batch; c: input channels; o: output channels; h, w: size of the input; kh, kw: size of the kernel
    h_out, w_out: size of the output
"""

import importlib
import math
import os

import torch
from torch import nn
from torch.nn.modules.utils import _pair

from basicsr_plugins.errors import InputError
from basicsr_plugins.ops.finite import sample_finite
from basicsr_plugins.ops.gathered_deform_conv import GatheredDeformConv
from basicsr_plugins.ops.tiled_deform_conv import TiledDeformConv

BACKEND_VARIABLE = 'BASICSR_PLUGINS_DCN'
WIDE = 32  # channels


def modulated_deform_conv2d(
    x: torch.Tensor,
    offset: torch.Tensor,
    mask: torch.Tensor,
    weight: torch.Tensor,
    bias: 'torch.Tensor | None' = None,
    stride: 'int | tuple[int, int]' = 1,
    padding: 'int | tuple[int, int]' = 0,
    dilation: 'int | tuple[int, int]' = 1,
    groups: int = 1,
    deform_groups: int = 1,
    backend: str = 'auto',
) -> torch.Tensor:
    """Modulated deformable convolution, equation (1) of the DCNv2 paper.

    Positions are computed in float32 (float64 where `x` is float64) whatever the other inputs are: in half precision
    they would be off by whole pixels on wide frames. So float16 and bfloat16 inputs, under `torch.autocast` too, are
    computed in float32, and the result has the dtype of `x`.

    Args:
        x: Features, (b, c, h, w), any floating dtype.
        offset: Displacement of each tap in pixels, (b, 2 * deform_groups * kh * kw, h_out, w_out); per deformable
            group and tap first y, then x.
        mask: Factor of each tap, (b, deform_groups * kh * kw, h_out, w_out), used as it is (no sigmoid here).
        weight: Kernel, (o, c / groups, kh, kw).
        bias: (o,) or None.
        stride: Of the taps' undisplaced positions, like `padding` and `dilation` one integer or (vertical, horizontal).
        padding: Zeros around the frame.
        dilation: Distance between taps.
        groups: Blocks of channels that are convolved apart; divides c and o.
        deform_groups: Blocks of input channels with offsets and masks of their own; divides c.
        backend: 'auto', 'torchvision', 'mmcv' or 'pytorch'.

    Returns:
        (b, o, h_out, w_out), dtype of `x`.

    Raises:
        InputError: Shapes that do not fit together, or a backend that is unknown, is not installed or cannot do this.
    """
    stride, padding, dilation = _pair(stride), _pair(padding), _pair(dilation)
    _check(x, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups)
    backend = select_backend(x.device, backend)
    _refuse(backend, x, offset, weight)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    inputs = [None if t is None else t.to(dtype) for t in (x, offset, mask, weight, bias)]

    def sample(offset):
        return _BACKENDS[backend](inputs[0], offset, *inputs[2:], stride, padding, dilation, groups, deform_groups)

    with torch.autocast(x.device.type, enabled=False):
        # our own keeps within bounds and leaves NaN where it was read
        return (sample(inputs[1]) if backend == 'pytorch' else sample_finite(sample, inputs[1])).to(x.dtype)


class ModulatedDeformConv2d(nn.Module):
    """`modulated_deform_conv2d` with its weight and bias; forward(x, offset, mask).

    Args:
        in_channels: c.
        out_channels: o.
        kernel_size: One integer or (kh, kw).
        stride, padding, dilation, groups, deform_groups, backend: As in `modulated_deform_conv2d`.
        bias: Whether there is one.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: 'int | tuple[int, int]',
        stride: 'int | tuple[int, int]' = 1,
        padding: 'int | tuple[int, int]' = 0,
        dilation: 'int | tuple[int, int]' = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = True,
        backend: str = 'auto',
    ):
        super().__init__()
        for name, channels in (('in_channels', in_channels), ('out_channels', out_channels)):
            if channels % groups:
                raise InputError(f'{name} must be divisible by groups, got {channels} and {groups}.')
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = _pair(kernel_size)
        self.stride = _pair(stride)
        self.padding = _pair(padding)
        self.dilation = _pair(dilation)
        self.groups = groups
        self.deform_groups = deform_groups
        self.backend = backend
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *self.kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize weight and bias as `nn.Conv2d` does."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return modulated_deform_conv2d(
            x,
            offset,
            mask,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.deform_groups,
            self.backend,
        )

    def extra_repr(self) -> str:
        return (
            f'{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, '
            f'padding={self.padding}, dilation={self.dilation}, groups={self.groups}, '
            f'deform_groups={self.deform_groups}, bias={self.bias is not None}, backend={self.backend!r}'
        )


def available_backends() -> 'list[str]':
    """Names of the backends that can be imported here."""
    return [name for name in _BACKENDS if _is_available(name)]


def select_backend(device: 'torch.device | str' = 'cpu', backend: str = 'auto') -> str:
    """Name of the backend that `modulated_deform_conv2d` runs for inputs on `device`.

    Args:
        device: Where the inputs are.
        backend: What the caller asks for; for 'auto', `BASICSR_PLUGINS_DCN` is asked, then the device.

    Raises:
        InputError: The backend asked for is unknown or not installed.
    """
    asked_by = 'backend'
    if backend == 'auto':
        backend = os.environ.get(BACKEND_VARIABLE) or 'auto'
        asked_by = BACKEND_VARIABLE
    if backend == 'auto':
        # On the CPU `pytorch` is several times faster than the other two (scripts/benchmark_ops.py), unless other
        # processes want the same cores: OpenMP's busy waiting then eats the gain, OMP_WAIT_POLICY=passive returns it.
        # On CUDA the choice is not measured: run scripts/benchmark_ops.py --device cuda there.
        on_cuda = torch.device(device).type == 'cuda'
        return 'torchvision' if on_cuda and _is_available('torchvision') else 'pytorch'
    if backend not in _BACKENDS or not _is_available(backend):
        problem = 'is not installed' if backend in _BACKENDS else 'is unknown'
        known = ', '.join(available_backends())
        raise InputError(f'{asked_by}={backend!r} {problem}: expected auto or one of {known}.')
    return backend


def _is_available(name):
    module = {'torchvision': 'torchvision.ops', 'mmcv': 'mmcv.ops', 'pytorch': 'torch'}[name]
    try:
        importlib.import_module(module)
    except (ImportError, OSError, RuntimeError):  # the last two: operators built for another torch
        return False
    return name != 'torchvision' or hasattr(torch.ops.torchvision, 'deform_conv2d')


def _check(x, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups):
    """Refuse inputs that do not fit together, with what was expected and what came."""
    for name, tensor in (('x', x), ('weight', weight)):
        if tensor.dim() != 4:
            raise InputError(f'{name} must have 4 dimensions, got shape {tuple(tensor.shape)}.')
    if not x.is_floating_point():
        raise InputError(f'x must be of a floating dtype, got {x.dtype}.')
    for name, values, least in (
        ('stride', stride, 1),
        ('padding', padding, 0),
        ('dilation', dilation, 1),
        ('groups', (groups,), 1),
        ('deform_groups', (deform_groups,), 1),
    ):
        if min(values) < least:
            raise InputError(f'{name} must be at least {least}, got {min(values)}.')

    if 0 in x.shape[1:] or 0 in weight.shape:
        raise InputError(f'x and weight must not be empty, got shapes {tuple(x.shape)} and {tuple(weight.shape)}.')
    b, c, h, w = x.shape
    o, c_per_group, kh, kw = weight.shape
    if c != c_per_group * groups:
        raise InputError(f'weight.shape[1] must be {c} / {groups} (channels of x / groups), got {c_per_group}.')
    if o % groups:
        raise InputError(f'weight.shape[0] must be divisible by groups, got {o} and {groups}.')
    if c % deform_groups:
        raise InputError(f'channels of x must be divisible by deform_groups, got {c} and {deform_groups}.')
    h_out, w_out = _output_size((h, w), (kh, kw), stride, padding, dilation)
    if h_out < 1 or w_out < 1:
        raise InputError(f'x of {h}x{w} is too small for a kernel of {kh}x{kw}: the output would be {h_out}x{w_out}.')

    taps = deform_groups * kh * kw
    expected = {'offset': (b, 2 * taps, h_out, w_out), 'mask': (b, taps, h_out, w_out), 'bias': (o,)}
    for name, tensor in (('offset', offset), ('mask', mask), ('bias', bias)):
        if tensor is not None and tuple(tensor.shape) != expected[name]:
            raise InputError(f'{name} must have shape {expected[name]}, got {tuple(tensor.shape)}.')
    for name, tensor in (('offset', offset), ('mask', mask), ('weight', weight), ('bias', bias)):
        if tensor is not None and tensor.device != x.device:
            raise InputError(f'{name} must be on the device of x, {x.device}, got {tensor.device}.')


def _refuse(backend, x, offset, weight):
    """Refuse what the backend, of those that can do the rest, cannot do."""
    b, c = x.shape[:2]
    if backend == 'mmcv':
        from mmcv.ops import get_compiling_cuda_version

        if b == 0:
            raise InputError("backend 'mmcv' cannot do an empty batch, got x of shape " + str(tuple(x.shape)))
        if x.is_cuda and get_compiling_cuda_version() == 'not available':
            raise InputError("backend 'mmcv' was built without CUDA, got x on " + str(x.device))
    # These count the columns in 32 bits: mmcv those of one frame, torchvision those of up to 32 frames at a time.
    frames = {'mmcv': 1, 'torchvision': 0 if x.is_cuda else min(b, 32)}.get(backend, 0)
    columns = frames * c * weight[0, 0].numel() * offset[0, 0].numel() if frames else 0
    if columns >= 2**31:
        raise InputError(
            f'backend {backend!r} cannot do more than {2**31 - 1} columns (channels * taps * output pixels'
            f"{' * frames' if frames > 1 else ''}), got {columns}: backend 'pytorch' can."
        )


def _output_size(size, kernel, stride, padding, dilation):
    return tuple(
        (extent + 2 * p - d * (k - 1) - 1) // s + 1
        for extent, k, s, p, d in zip(size, kernel, stride, padding, dilation)
    )


def _torchvision(x, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups):
    from torchvision.ops import deform_conv2d

    x, offset, mask, weight = (t.contiguous() for t in (x, offset, mask, weight))
    # groups and deform_groups follow from the shapes.
    return deform_conv2d(x, offset, weight, bias, stride=stride, padding=padding, dilation=dilation, mask=mask)


def _mmcv(x, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups):
    from mmcv.ops import modulated_deform_conv2d as mmcv_conv

    x, offset, mask, weight = (t.contiguous() for t in (x, offset, mask, weight))
    return mmcv_conv(x, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups)


def _pytorch(x, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups):
    offset, mask, weight = (t.contiguous() for t in (offset, mask, weight))
    if x.device.type == 'cpu' and groups == 1 and x.size(1) >= WIDE * deform_groups:
        return GatheredDeformConv.apply(x, offset, mask, weight, bias, stride, padding, dilation, deform_groups)
    x = x.contiguous()
    return TiledDeformConv.apply(x, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups)


_BACKENDS = {'torchvision': _torchvision, 'mmcv': _mmcv, 'pytorch': _pytorch}
