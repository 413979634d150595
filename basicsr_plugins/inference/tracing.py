"""ONNX graphs of a network's steps, of any height and width, in standard operators only.

PyTorch's tracer makes them. It writes numbers that Python computes from sizes into the graph as constants, so each
graph is traced at two sizes and must come out the same. Deformable convolution becomes `DeformConv` (opset 19), warping
`GridSample`; SpyNet, whose sizes Python computes, and bilinear upsampling are traced through functions that give the
same values.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from basicsr.archs.arch_util import flow_warp
from basicsr.archs.spynet_arch import SpyNet
from torch import Tensor, nn
from torch.nn import functional as F
from torch.onnx.symbolic_helper import parse_args

from basicsr_plugins.archs import sub_pixel
from basicsr_plugins.archs.recurrent import State
from basicsr_plugins.compat.networks import SPYNET_MIN_SIZE
from basicsr_plugins.compat.rebind import replaced
from basicsr_plugins.errors import InputError, one_line
from basicsr_plugins.models.network_spec import NetworkSpec, spec_of
from basicsr_plugins.ops import deform_conv

OPSET = 19  # the first with DeformConv
WHOLE = 'forward'  # the one step of a network of windows or images
OUTPUTS = {
    'clean': 'cleaned',
    'extract': 'feat',
    'flow': 'flow',
    'backward_step': 'new_state',
    'forward_step': 'new_state',
    'upsample': 'output',
    WHOLE: 'output',
}
SINGLE = frozenset(OUTPUTS.values())  # names of results that are no tuples
_resize, _block_parameters = F.interpolate, sub_pixel.block_parameters  # as they are outside of tracing
_lock = threading.Lock()  # tracing replaces functions for all threads


def flatten(values: Mapping[str, State | None]) -> dict[str, Tensor]:
    """Inputs or outputs by the names that they have in a graph: without None, and a tuple as `name_0`, `name_1` ..."""
    flat = {}
    for name, value in values.items():
        if isinstance(value, tuple):
            flat.update({f'{name}_{i}': tensor for i, tensor in enumerate(value)})
        elif value is not None:
            flat[name] = value
    return flat


def is_output(name: str) -> bool:
    """Whether a name in a graph is one of its outputs, be it part of a tuple."""
    return re.sub(r'_\d+$', '', name) in SINGLE


def trace(net: nn.Module, step: str, inputs: Mapping[str, State | None]) -> bytes:
    """The ONNX model of a step, weights included.

    Args:
        net: The network, in eval mode, on the CPU, in float32.
        step: `clean`, `extract`, `flow`, `backward_step`, `forward_step`, `upsample`; `forward` for the network as a
            whole.
        inputs: What the step takes, as an example: names and channels count. What is None, or not there, is no input of
            the graph; a tuple of tensors is several (see `flatten`).

    Raises:
        InputError: If the network cannot be exported; the message names the operator, or says that sizes are fixed.
    """
    _need_onnx()
    spec = spec_of(net)
    graphs = []
    for number in (1, 2):
        size = _size(spec, number)
        graphs.append(_trace(net, spec, step, {name: _random(value, size) for name, value in inputs.items()}))
    if graphs[0] != graphs[1]:
        raise InputError(
            f'{spec.name} cannot be exported: {_first_difference(*graphs)} in its step {step} depends on the size of '
            'the frames by numbers that Python computes.'
        )
    return graphs[0]


def _need_onnx() -> None:
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise InputError(
            "making ONNX files needs onnx, which is not installed: pip install 'basicsr-plugins[export]'."
        ) from error


def _size(spec: NetworkSpec, number: int) -> tuple[int, int]:
    """Height and width of an example, other ones for each number."""
    multiple = spec.size_multiple
    least = -(-max(spec.min_size, 24) // multiple)
    return (least + number) * multiple, (least + 3 * number) * multiple


def _random(value: State | None, size: tuple[int, int]) -> State | None:
    if value is None:
        return None
    if isinstance(value, tuple):
        return tuple(_random(tensor, size) for tensor in value)
    return torch.rand(*value.shape[:-2], *size, generator=torch.Generator().manual_seed(0))


def _trace(net: nn.Module, spec: NetworkSpec, step: str, examples: Mapping[str, State | None]) -> bytes:
    module = _StepModule(net, net.forward if step == WHOLE else getattr(spec.steps, step), examples)
    module.eval()  # PyTorch leaves it, and the network in it, in the mode that the module was in
    flat = flatten(examples)
    with torch.no_grad(), _exportable():
        result = module.compute(*flat.values())
        outputs = list(flatten({OUTPUTS[step]: result}))
        sides = {-2: 'h', -1: 'w'}
        axes = {name: {tensor.dim() + axis: side for axis, side in sides.items()} for name, tensor in flat.items()}
        axes.update({name: {2: f'{name}_h', 3: f'{name}_w'} for name in outputs})
        file = io.BytesIO()
        try:
            torch.onnx.export(
                module,
                tuple(flat.values()),
                file,
                input_names=list(flat),
                output_names=outputs,
                opset_version=OPSET,
                dynamic_axes=axes,
                dynamo=False,
            )
        except (RuntimeError, TypeError, ValueError) as error:
            unknown = re.search(r"operator '([^']+)'", str(error))
            problem = f'its operator {unknown[1]} is none of ONNX' if unknown else one_line(error)[:200]
            raise InputError(f'{spec.name} cannot be exported: in its step {step}, {problem}.') from error
    return file.getvalue()


class _StepModule(nn.Module):
    """A step as a function of tensors; it is a module so that the weights are saved with it."""

    def __init__(self, net: nn.Module, step: Callable[..., State], inputs: Mapping[str, State | None]):
        super().__init__()
        self.net = net
        self._call_step = partial(step, **{name: None for name, value in inputs.items() if value is None})
        self._lengths = {
            name: len(value) if isinstance(value, tuple) else None
            for name, value in inputs.items()
            if value is not None
        }

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        result = self.compute(*tensors)
        return result if isinstance(result, tuple) else (result,)

    def compute(self, *tensors: Tensor) -> State:
        left = iter(tensors)
        inputs = {
            name: next(left) if length is None else tuple(itertools.islice(left, length))
            for name, length in self._lengths.items()
        }
        return self._call_step(**inputs)


@contextlib.contextmanager
def _exportable() -> Iterator[None]:
    """Functions that the tracer understands stand in for those that it does not."""
    with _lock, warnings.catch_warnings(), contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))  # where PyTorch prints whole graphs
        warnings.simplefilter('ignore')  # that Python's numbers become constants: it is checked
        stack.enter_context(torch.autocast('cpu', enabled=False))  # the engine's casts are not the network's
        stack.enter_context(replaced(SpyNet, 'forward', _spynet_flow))
        stack.enter_context(replaced(F, 'interpolate', _interpolate))
        stack.enter_context(replaced(deform_conv, 'select_backend', lambda *_: 'torchvision'))  # one operator
        stack.enter_context(replaced(sub_pixel, 'block_parameters', _constant_parameters))
        torch.onnx.register_custom_op_symbolic('torchvision::deform_conv2d', _deform_conv, OPSET)
        yield


def _constant_parameters(*args, **options) -> tuple[Tensor | None, ...]:
    """`block_parameters` as constants of the graph: the exporter takes no kernels that are computed."""
    made = _block_parameters(*args, **options)
    return tuple(None if tensor is None else torch.from_numpy(tensor.numpy()) for tensor in made)


@parse_args(*'vvvvviiiiiiiib')
def _deform_conv(
    graph,
    x,
    weight,
    offset,
    mask,
    bias,
    stride_h,
    stride_w,
    pad_h,
    pad_w,
    dilation_h,
    dilation_w,
    groups,
    deform_groups,
    use_mask,
):
    """`DeformConv` of ONNX: offsets are pairs (y, x) for each tap in both."""
    return graph.op(
        'DeformConv',
        *(x, weight, offset, bias, *([mask] if use_mask else [])),
        strides_i=(stride_h, stride_w),
        pads_i=(pad_h, pad_w, pad_h, pad_w),
        dilations_i=(dilation_h, dilation_w),
        group_i=groups,
        offset_group_i=deform_groups,
    )


def _spynet_flow(net: SpyNet, ref: Tensor, supp: Tensor) -> Tensor:
    """SpyNet (Ranjan and Black, CVPR 2017), as the toolbox's with small frames padded, its sizes in tensors.

    Frames of 32 px or less go on by their border to 64 px, and the flow is cropped; then all are resized to multiples
    of 32 px.
    """
    sides = [torch.as_tensor(side) for side in ref.shape[-2:]]
    is_small = torch.minimum(*sides) <= SPYNET_MIN_SIZE // 2
    padded = [torch.where(is_small, side.clamp(min=SPYNET_MIN_SIZE), side) for side in sides]
    resized = [torch.div(side + 31, 32, rounding_mode='floor') * 32 for side in padded]
    rows, columns = (torch.minimum(torch.arange(end), side - 1) for end, side in zip(padded, sides))

    pyramids = []
    for frame in (ref, supp):
        whole = F.interpolate(frame[:, :, rows][..., columns], size=resized, mode='bilinear', align_corners=False)
        levels = [net.preprocess(whole)]
        for _ in range(len(net.basic_module) - 1):
            levels.append(F.avg_pool2d(levels[-1], 2))
        pyramids.append(levels[::-1])

    flow = torch.zeros_like(pyramids[0][0][:, :2])
    for i, (module, frame, other) in enumerate(zip(net.basic_module, *pyramids)):
        if i > 0:
            flow = 2 * F.interpolate(flow, scale_factor=2, mode='bilinear', align_corners=True)
        warped = flow_warp(other, flow.permute(0, 2, 3, 1), padding_mode='border')
        flow = flow + module(torch.cat((frame, warped, flow), dim=1))

    flow = F.interpolate(flow, size=padded, mode='bilinear', align_corners=False)
    shrink = torch.stack([before / after for before, after in zip(padded, resized)][::-1])  # of x, of y
    return (flow * shrink.view(1, 2, 1, 1))[:, :, : sides[0], : sides[1]]


def _interpolate(
    x: Tensor, size=None, scale_factor=None, mode: str = 'nearest', align_corners=None, **options
) -> Tensor:
    """`F.interpolate`, with bilinear upsampling by whole factors as sums of neighbours, the same to rounding.

    A network adds its details to a frame that is enlarged so. In bfloat16 OpenVINO would round that frame, as it does
    for every `Resize`; sums behind the last convolution it leaves in float32.
    """
    if mode != 'bilinear' or align_corners or not isinstance(scale_factor, (int, float)) or scale_factor % 1:
        return _resize(x, size, scale_factor, mode, align_corners, **options)
    places = [(k + 0.5) / scale_factor - 0.5 for k in range(int(scale_factor))]
    for axis, border in ((2, (0, 0, 1, 1)), (3, (1, 1, 0, 0))):
        before, here, after = (F.pad(x, border, 'replicate').narrow(axis, i, x.shape[axis]) for i in range(3))
        phases = [(1 - abs(place)) * here + abs(place) * (before if place < 0 else after) for place in places]
        x = torch.stack(phases, axis + 1).flatten(axis, axis + 1)
    return x


def _first_difference(one: bytes, other: bytes) -> str:
    """The operator at which two graphs part."""
    import onnx

    nodes = zip(*(onnx.load_model_from_string(model).graph.node for model in (one, other)))
    return next((a.op_type for a, b in nodes if a != b), 'a constant')
