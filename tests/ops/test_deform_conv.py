"""Modulated deformable convolution against a slow loop reference, backend by backend."""

import itertools
import math
import sys
import types

import pytest
import torch

from basicsr_plugins.errors import InputError
from basicsr_plugins.ops import deform_conv, gathered_deform_conv, tiled_deform_conv
from basicsr_plugins.ops.deform_conv import (
    ModulatedDeformConv2d,
    available_backends,
    modulated_deform_conv2d,
    select_backend,
)

NAMES = ('x', 'offset', 'mask', 'weight', 'bias')
OURS = ['pytorch, tiled', 'pytorch, gathered']
BACKENDS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name.split(',')[0] not in available_backends(),
            reason=f'{name} with operators is not installed (scripts/install_mmcv.sh)',
        ),
    )
    for name in ('torchvision', 'mmcv', *OURS)
]

# size, channels in and out, batch, kernel, stride, padding, dilation, groups, deform_groups
CASES = {
    'plain': ((5, 6), 4, 3, 1, (3, 3), (1, 1), (1, 1), (1, 1), 1, 1),
    'deform_groups 2, batch 2': ((5, 7), 4, 3, 2, (3, 3), (1, 1), (1, 1), (1, 1), 1, 2),
    'deform_groups 8, groups 2': ((4, 5), 8, 4, 2, (3, 3), (1, 1), (1, 1), (1, 1), 2, 8),
    'stride 2, dilation 2': ((7, 9), 4, 2, 1, (3, 3), (2, 2), (2, 2), (2, 2), 1, 2),
    'uneven': ((9, 6), 2, 2, 3, (1, 5), (3, 1), (1, 2), (1, 2), 2, 1),
    'one pixel': ((1, 1), 4, 2, 1, (3, 3), (1, 1), (1, 1), (1, 1), 1, 1),
    'one output row': ((3, 8), 2, 2, 2, (3, 3), (1, 1), (0, 1), (1, 1), 1, 2),
}


@pytest.fixture
def backend(request, monkeypatch):
    """Its name; of our own, one of the two ways is taken whatever the number of channels."""
    name, _, way = request.param.partition(', ')
    case = request.node.callspec.params.get('case')
    if way == 'gathered' and case is not None and CASES[case][-2] > 1:
        pytest.skip('groups are for tiles')
    monkeypatch.setattr(deform_conv, 'WIDE', 1 if way == 'gathered' else math.inf)
    return name


def make_case(case, dtype=torch.float64, spread=1.5, seed=0):
    """Inputs and keyword arguments; offsets stay clear of whole pixels, where the gradient has two sides."""
    size, c, o, b, kernel, stride, padding, dilation, groups, deform_groups = CASES[case]
    h_out, w_out = (
        (extent + 2 * p - d * (k - 1) - 1) // s + 1
        for extent, k, s, p, d in zip(size, kernel, stride, padding, dilation)
    )
    generator = torch.Generator().manual_seed(seed)

    def sample(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    taps = deform_groups * kernel[0] * kernel[1]
    offset = ((sample(b, 2 * taps, h_out, w_out) * spread * 8).floor() + 0.5) / 8
    inputs = [
        sample(b, c, *size),
        offset,
        sample(b, taps, h_out, w_out).sigmoid(),
        sample(o, c // groups, *kernel),
        sample(o),
    ]
    options = {
        'stride': stride,
        'padding': padding,
        'dilation': dilation,
        'groups': groups,
        'deform_groups': deform_groups,
    }
    return [t.to(dtype).requires_grad_() for t in inputs], options


def reference(x, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups):
    """One output value after the other, in Python loops; differentiable."""
    b, c, h, w = x.shape
    o, c_per_group, kh, kw = weight.shape
    h_out, w_out = offset.shape[2:]

    def pixel(n, channel, row, column):
        return x[n, channel, row, column] if 0 <= row < h and 0 <= column < w else x[n, channel, 0, 0] * 0

    def read(n, channel, y, x_position):
        top, left = math.floor(y.detach()), math.floor(x_position.detach())
        fy, fx = y - top, x_position - left
        upper = pixel(n, channel, top, left) * (1 - fx) + pixel(n, channel, top, left + 1) * fx
        lower = pixel(n, channel, top + 1, left) * (1 - fx) + pixel(n, channel, top + 1, left + 1) * fx
        return upper * (1 - fy) + lower * fy

    out = []
    for n, row, column in itertools.product(range(b), range(h_out), range(w_out)):
        samples = {}
        for channel, i, j in itertools.product(range(c), range(kh), range(kw)):
            tap = (channel // (c // deform_groups)) * kh * kw + i * kw + j
            y = row * stride[0] - padding[0] + i * dilation[0] + offset[n, 2 * tap, row, column]
            x_position = column * stride[1] - padding[1] + j * dilation[1] + offset[n, 2 * tap + 1, row, column]
            samples[channel, i, j] = read(n, channel, y, x_position) * mask[n, tap, row, column]
        for output in range(o):
            first = output // (o // groups) * c_per_group
            column_of_taps = [
                samples[first + channel, i, j]
                for channel, i, j in itertools.product(range(c_per_group), range(kh), range(kw))
            ]
            out.append((torch.stack(column_of_taps) * weight[output].flatten()).sum() + bias[output])
    return torch.stack(out).view(b, h_out, w_out, o).permute(0, 3, 1, 2)


def result_and_gradients(function, inputs):
    out = function(*inputs)
    generator = torch.Generator().manual_seed(1)
    grad_out = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype)
    return dict(zip(('out', *NAMES), (out.detach(), *torch.autograd.grad(out, inputs, grad_out))))


def assert_close(ours, expected, tolerance):
    for name, value in expected.items():
        difference = (ours[name].double() - value.double()).abs().max()
        assert difference <= tolerance * value.double().abs().max(), f'{name} is off by {difference}'


@pytest.fixture(scope='module')
def references():
    """The loop reference of each case, with gradients, computed once."""
    expected = {}
    for case in CASES:
        inputs, options = make_case(case)
        expected[case] = result_and_gradients(lambda *tensors, options=options: reference(*tensors, **options), inputs)
    return expected


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=['float64', 'float32'])
@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('backend', BACKENDS, indirect=True)
def test_agrees_with_loops(backend, case, dtype, references):
    inputs, options = make_case(case, dtype)
    ours = result_and_gradients(lambda *t: modulated_deform_conv2d(*t, **options, backend=backend), inputs)
    assert ours['out'].dtype == dtype
    assert_close(ours, references[case], 1e-12 if dtype == torch.float64 else 2e-5)


@pytest.mark.parametrize('backend', BACKENDS, indirect=True)
def test_taps_that_leave_the_frame_read_zero(backend):
    inputs, options = make_case('plain')
    x, offset, mask, weight, bias = inputs
    far = torch.full_like(offset, 1e4)
    far[:, ::4] = -1e10
    out = modulated_deform_conv2d(x, far.requires_grad_(), mask, weight, bias, **options, backend=backend)
    torch.testing.assert_close(out, bias.view(1, -1, 1, 1).expand_as(out))
    grad_x, grad_offset = torch.autograd.grad(out.sum(), (x, far))
    assert grad_x.abs().max() == 0
    assert grad_offset.abs().max() == 0


@pytest.mark.parametrize('backend', BACKENDS, indirect=True)
def test_zero_offset_is_plain_convolution(backend):
    inputs, options = make_case('stride 2, dilation 2', torch.float32)
    x, offset, mask, weight, bias = inputs
    ours = modulated_deform_conv2d(
        x, torch.zeros_like(offset), torch.ones_like(mask), weight, bias, **options, backend=backend
    )
    del options['deform_groups']
    torch.testing.assert_close(ours, torch.nn.functional.conv2d(x, weight, bias, **options))


@pytest.mark.parametrize('backend', OURS, indirect=True)
@pytest.mark.parametrize('width', [9, 320, 2048])
def test_whole_pixels_take_the_derivative_towards_larger_coordinates(width, backend):
    """Where EFAR's offsets start. Torchvision's float64 gradient is on that side as well."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 5, width, generator=generator)
    offset = torch.randint(-2, 3, (1, 18, 5, width), generator=generator).float()
    mask, weight = torch.rand(1, 9, 5, width, generator=generator), torch.randn(2, 2, 3, 3, generator=generator)
    gradients = []
    for name, dtype in ((backend, torch.float32), ('torchvision', torch.float64)):
        inputs = [t.to(dtype).requires_grad_() for t in (x, offset, mask, weight)]
        out = modulated_deform_conv2d(*inputs, padding=1, backend=name)
        gradients.append(torch.autograd.grad(out.sum(), inputs))
    for ours, expected in zip(*gradients):
        torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('split', [1, 2])
def test_tiles_do_not_show(monkeypatch, split):
    """Several tiles in both directions, crops that start inside the frame, and channels split among threads."""
    monkeypatch.setattr(tiled_deform_conv, 'TILE_SAMPLES_CPU', 4 * 9 * 16 * 5)
    monkeypatch.setattr(tiled_deform_conv, 'TILE_WIDTH_CPU', 16)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: split)
    check_large(monkeypatch)


@pytest.mark.parametrize('samples', [1, 4 * 9 * 70 * 5], ids=['row by row', 'five rows'])
def test_gathered_parts_do_not_show(monkeypatch, samples):
    monkeypatch.setattr(deform_conv, 'WIDE', 1)
    monkeypatch.setattr(gathered_deform_conv, 'SAMPLES', samples)
    check_large(monkeypatch)


def check_large(monkeypatch):
    monkeypatch.setitem(CASES, 'large', ((33, 70), 4, 3, 2, (3, 3), (1, 1), (1, 1), (1, 1), 1, 1))
    results = []
    for backend in ('pytorch', 'torchvision'):
        inputs, options = make_case('large')
        run = lambda *t, backend=backend, options=options: modulated_deform_conv2d(*t, **options, backend=backend)  # noqa: E731
        results.append(result_and_gradients(run, inputs))
    assert_close(*results, 1e-12)


@pytest.mark.parametrize(
    ('channels', 'deform_groups', 'is_gathered'), [(32, 1, True), (31, 1, False), (64, 2, True), (64, 8, False)]
)
def test_many_channels_with_the_same_offset_are_gathered(monkeypatch, channels, deform_groups, is_gathered):
    calls, apply = [], deform_conv.GatheredDeformConv.apply
    monkeypatch.setattr(deform_conv.GatheredDeformConv, 'apply', lambda *args: calls.append(1) or apply(*args))
    x, offset, mask = (torch.zeros(1, c, 5, 6) for c in (channels, 18 * deform_groups, 9 * deform_groups))
    options = {'padding': 1, 'deform_groups': deform_groups, 'backend': 'pytorch'}
    modulated_deform_conv2d(x, offset, mask, torch.zeros(2, channels, 3, 3), **options)
    assert bool(calls) == is_gathered


@pytest.mark.parametrize('backend', OURS, indirect=True)
def test_gradcheck(backend):
    inputs, options = make_case('deform_groups 2, batch 2')
    assert torch.autograd.gradcheck(
        lambda *t: modulated_deform_conv2d(*t, **options, backend=backend), inputs, fast_mode=True
    )
    inputs, options = make_case('one output row')
    assert torch.autograd.gradcheck(lambda *t: modulated_deform_conv2d(*t, **options, backend=backend), inputs)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=['float16', 'bfloat16'])
@pytest.mark.parametrize('backend', BACKENDS, indirect=True)
def test_half_precision_rounds_only_inputs_and_result(backend, dtype):
    """Positions past 256 px: in bfloat16 they would be off by whole pixels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 3, 400, generator=generator)
    offset = (torch.randint(-16, 16, (1, 18, 3, 400), generator=generator) + 0.5) / 8
    mask, weight = torch.rand(1, 9, 3, 400, generator=generator), torch.randn(4, 4, 3, 3, generator=generator)
    inputs = [t.to(dtype).requires_grad_() for t in (x, offset, mask, weight)]
    ours = modulated_deform_conv2d(*inputs, padding=1, backend=backend)
    expected = modulated_deform_conv2d(*(t.float() for t in inputs), padding=1, backend=backend)
    assert ours.dtype == dtype
    assert torch.equal(ours, expected.to(dtype))
    gradients = torch.autograd.grad(ours.float().sum(), inputs)
    assert [g.dtype for g in gradients] == [dtype] * 4
    for ours_grad, expected_grad in zip(gradients, torch.autograd.grad(expected.sum(), inputs)):
        torch.testing.assert_close(ours_grad, expected_grad)


@pytest.mark.parametrize('backend', BACKENDS, indirect=True)
def test_autocast_and_mixed_dtypes(backend):
    """As in a network under autocast: features and mask in bfloat16, offsets (flow added) and weights in float32."""
    inputs, options = make_case('deform_groups 2, batch 2', torch.float32)
    x, offset, mask, weight, bias = inputs
    low_x, low_mask = x.detach().bfloat16().requires_grad_(), mask.detach().bfloat16()
    with torch.autocast('cpu', torch.bfloat16):
        ours = modulated_deform_conv2d(low_x, offset, low_mask, weight, bias, **options, backend=backend)
    grad_x, grad_weight = torch.autograd.grad(ours.float().sum(), (low_x, weight))
    expected = modulated_deform_conv2d(
        low_x.float(), offset, low_mask.float(), weight, bias, **options, backend='pytorch'
    )
    expected_grad_x, expected_grad_weight = torch.autograd.grad(expected.sum(), (low_x, weight))
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours, expected.bfloat16())
    torch.testing.assert_close(grad_x, expected_grad_x)
    torch.testing.assert_close(grad_weight, expected_grad_weight)


@pytest.mark.parametrize('backend', BACKENDS, indirect=True)
def test_memory_layout_does_not_matter(backend):
    inputs, options = make_case('deform_groups 2, batch 2')
    expected = modulated_deform_conv2d(*inputs, **options, backend=backend)
    x, offset, mask, weight, bias = inputs
    ours = modulated_deform_conv2d(
        x.contiguous(memory_format=torch.channels_last),
        offset.transpose(2, 3).contiguous().transpose(2, 3),
        mask.transpose(0, 1).contiguous().transpose(0, 1),
        weight.contiguous(memory_format=torch.channels_last),
        torch.stack([bias, bias], 1)[:, 0],
        **options,
        backend=backend,
    )
    assert torch.equal(ours, expected)


@pytest.mark.parametrize('backend', OURS, indirect=True)
def test_not_a_number_stays_where_it_is_read(backend):
    inputs, options = make_case('plain')
    x, offset, mask, weight, bias = (t.detach() for t in inputs)
    expected = modulated_deform_conv2d(x, offset, mask, weight, bias, **options, backend=backend)
    offset[:, 0, 2, 3] = float('nan')
    ours = modulated_deform_conv2d(x, offset, mask, weight, bias, **options, backend=backend)
    elsewhere = torch.ones(5, 6, dtype=torch.bool)
    elsewhere[2, 3] = False
    torch.testing.assert_close(ours[..., elsewhere], expected[..., elsewhere])


@pytest.mark.parametrize('backend', ['torchvision', *OURS], indirect=True)
def test_empty_batch(backend):
    inputs = [torch.zeros(0, 4, 5, 6), torch.zeros(0, 18, 5, 6), torch.zeros(0, 9, 5, 6), torch.ones(2, 4, 3, 3)]
    inputs = [t.requires_grad_() for t in inputs]
    out = modulated_deform_conv2d(*inputs, padding=1, backend=backend)
    assert out.shape == (0, 2, 5, 6)
    gradients = torch.autograd.grad(out.sum(), inputs)
    assert torch.equal(gradients[3], torch.zeros(2, 4, 3, 3))


@pytest.mark.parametrize('backend', BACKENDS, indirect=True)
def test_module_is_the_function_with_its_weights(backend):
    inputs, options = make_case('uneven', torch.float32)
    module = ModulatedDeformConv2d(2, 2, (1, 5), **options, backend=backend)
    ours = module(*inputs[:3])
    expected = modulated_deform_conv2d(*inputs[:3], module.weight, module.bias, **options, backend=backend)
    assert torch.equal(ours, expected)
    assert [name for name, _ in module.named_parameters()] == ['weight', 'bias']
    assert module.weight.shape == (2, 1, 1, 5)
    assert ModulatedDeformConv2d(2, 2, 3, bias=False).bias is None


def test_selection(monkeypatch):
    monkeypatch.delenv('BASICSR_PLUGINS_DCN', raising=False)
    assert select_backend('cpu') == 'pytorch'
    assert select_backend('cuda') == 'torchvision'
    monkeypatch.setenv('BASICSR_PLUGINS_DCN', 'torchvision')
    assert select_backend('cpu') == 'torchvision'
    assert select_backend('cpu', 'pytorch') == 'pytorch'

    called = []
    monkeypatch.setitem(deform_conv._BACKENDS, 'torchvision', lambda x, *_: called.append('torchvision') or x)
    inputs, options = make_case('plain')
    modulated_deform_conv2d(*inputs, **options)
    assert called == ['torchvision']

    monkeypatch.setenv('BASICSR_PLUGINS_DCN', 'cudnn')
    with pytest.raises(InputError, match=r"BASICSR_PLUGINS_DCN='cudnn' is unknown: .*torchvision.*pytorch"):
        modulated_deform_conv2d(*inputs, **options)
    with pytest.raises(InputError, match=r"backend='nothing' is unknown"):
        modulated_deform_conv2d(*inputs, **options, backend='nothing')


def test_missing_mmcv_is_refused_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmcv.ops', None)
    assert 'mmcv' not in available_backends()
    with pytest.raises(InputError, match=r"backend='mmcv' is not installed: .*torchvision.*pytorch"):
        select_backend('cpu', 'mmcv')


def test_mmcv_gets_its_arguments_in_its_order(monkeypatch):
    """A stand-in with mmcv's signature, computed by torchvision, for machines without mmcv."""

    def stand_in(x, offset, mask, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, deform_groups=1):
        assert weight.shape[1] * groups == x.shape[1]
        assert offset.shape[1] == 2 * deform_groups * weight[0, 0].numel()
        return modulated_deform_conv2d(
            x, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups, backend='torchvision'
        )

    module = types.ModuleType('mmcv.ops')
    module.modulated_deform_conv2d = stand_in
    module.get_compiling_cuda_version = lambda: 'not available'
    monkeypatch.setitem(sys.modules, 'mmcv', types.ModuleType('mmcv'))
    monkeypatch.setitem(sys.modules, 'mmcv.ops', module)
    inputs, options = make_case('uneven')
    ours = modulated_deform_conv2d(*inputs, **options, backend='mmcv')
    torch.testing.assert_close(ours, modulated_deform_conv2d(*inputs, **options, backend='pytorch'))
    empty = [torch.zeros(0, *t.shape[1:], dtype=t.dtype) for t in inputs[:3]]
    with pytest.raises(InputError, match=r"'mmcv' cannot do an empty batch"):
        modulated_deform_conv2d(*empty, *inputs[3:], **options, backend='mmcv')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'x': torch.zeros(4, 5, 6)}, r'x must have 4 dimensions, got shape \(4, 5, 6\)'),
        ({'x': torch.zeros(1, 4, 5, 6, dtype=torch.uint8)}, r'x must be of a floating dtype, got torch.uint8'),
        ({'x': torch.zeros(1, 4, 0, 6)}, r'must not be empty, got shapes \(1, 4, 0, 6\)'),
        ({'offset': torch.zeros(1, 9, 5, 6)}, r'offset must have shape \(1, 18, 5, 6\), got \(1, 9, 5, 6\)'),
        ({'mask': torch.zeros(1, 9, 6, 5)}, r'mask must have shape \(1, 9, 5, 6\), got \(1, 9, 6, 5\)'),
        ({'mask': torch.zeros(1, 9, 5, 6, device='meta')}, r'mask must be on the device of x, cpu, got meta'),
        ({'bias': torch.zeros(3)}, r'bias must have shape \(2,\), got \(3,\)'),
        ({'weight': torch.zeros(2, 3, 3, 3)}, r'weight.shape\[1\] must be 4 / 1 .*, got 3'),
        ({'weight': torch.zeros(3, 2, 3, 3), 'groups': 2}, r'weight.shape\[0\] .* groups, got 3 and 2'),
        ({'deform_groups': 3}, r'divisible by deform_groups, got 4 and 3'),
        ({'stride': 0}, r'stride must be at least 1, got 0'),
        ({'padding': (1, -1)}, r'padding must be at least 0, got -1'),
        ({'groups': 0}, r'groups must be at least 1, got 0'),
        ({'dilation': 4}, r'x of 5x6 is too small for a kernel of 3x3: the output would be -1x0'),
    ],
)
def test_inputs_that_do_not_fit_are_refused(change, message):
    inputs = {
        'x': torch.zeros(1, 4, 5, 6),
        'offset': torch.zeros(1, 18, 5, 6),
        'mask': torch.zeros(1, 9, 5, 6),
        'weight': torch.zeros(2, 4, 3, 3),
        'bias': torch.zeros(2),
        'padding': 1,
    }
    with pytest.raises(InputError, match=message):
        modulated_deform_conv2d(**{**inputs, **change})


@pytest.mark.parametrize('backend', BACKENDS[:2], indirect=True)
def test_more_columns_than_32_bits_count_are_refused(backend):
    """Expanded tensors, so that the refusal itself needs no memory."""
    size = (2**13, 2**13)
    x, offset, mask = (torch.zeros(1).expand(1, c, *size) for c in (4, 18, 9))
    with pytest.raises(InputError, match=f"{backend}' cannot do more than 2147483647 columns .*, got 2415919104"):
        modulated_deform_conv2d(x, offset, mask, torch.zeros(1, 4, 3, 3), padding=1, backend=backend)
