"""The way without gradients, against the slow loop reference and the way with gradients."""

import pytest
import torch
from test_deform_conv import CASES, make_case, reference

from basicsr_plugins.ops import deform_conv, gathered_deform_conv
from basicsr_plugins.ops.deform_conv import modulated_deform_conv2d


@pytest.mark.parametrize('samples', [1, 2**20], ids=['row by row', 'at once'])
@pytest.mark.parametrize('case', [name for name, values in CASES.items() if values[-2] == 1])
def test_agrees_with_loops(monkeypatch, case, samples):
    monkeypatch.setattr(gathered_deform_conv, 'SAMPLES', samples)
    inputs, options = make_case(case)
    inputs = [tensor.detach() for tensor in inputs]
    expected = reference(*inputs, **options)
    options.pop('groups', None)
    x, *others = (tensor.float() for tensor in inputs)
    for layout in (torch.contiguous_format, torch.channels_last):
        ours = gathered_deform_conv.gathered_deform_conv(x.contiguous(memory_format=layout), *others, **options)
        torch.testing.assert_close(ours.double(), expected, rtol=2e-5, atol=2e-5)


def make_wide(deform_groups, seed=0):
    """Inputs of 64 channels; some taps are far outside, some on whole pixels."""
    generator = torch.Generator().manual_seed(seed)
    x, mask = (
        torch.randn(2, 64, 9, 11, generator=generator),
        torch.rand(2, 9 * deform_groups, 9, 11, generator=generator),
    )
    offset = torch.randn(2, 18 * deform_groups, 9, 11, generator=generator) * 4
    offset[:, ::3] = offset[:, ::3].round()
    offset[0, 0, 0, :2] = torch.tensor([1e4, -1e10])
    return x, offset, mask, torch.randn(5, 64, 3, 3, generator=generator), torch.randn(5, generator=generator)


@pytest.mark.parametrize('deform_groups', [1, 2])
def test_it_is_taken_without_gradients_and_gives_the_same(monkeypatch, deform_groups):
    inputs = make_wide(deform_groups)
    options = {'padding': 1, 'deform_groups': deform_groups, 'backend': 'pytorch'}
    expected = modulated_deform_conv2d(inputs[0].requires_grad_(), *inputs[1:], **options)
    calls, original = [], deform_conv.gathered_deform_conv
    monkeypatch.setattr(deform_conv, 'gathered_deform_conv', lambda *args: calls.append(1) or original(*args))
    with torch.no_grad():
        torch.testing.assert_close(modulated_deform_conv2d(*inputs, **options), expected, rtol=1e-4, atol=1e-4)
        assert len(calls) == 1
        low = modulated_deform_conv2d(inputs[0].bfloat16(), *inputs[1:], **options)
        assert len(calls) == 2
        assert low.dtype == torch.bfloat16
        modulated_deform_conv2d(*(tensor.double() for tensor in inputs), **options)
        modulated_deform_conv2d(inputs[0][:0], *(tensor[:0] for tensor in inputs[1:3]), *inputs[3:], **options)
    modulated_deform_conv2d(*inputs, **options)
    assert len(calls) == 2


def test_not_a_number_stays_where_it_is_read():
    x, offset, *others = make_wide(1)
    expected = modulated_deform_conv2d(x, offset, *others, padding=1, backend='pytorch')
    offset[1, 4, 2, 3] = float('nan')
    ours = modulated_deform_conv2d(x, offset, *others, padding=1, backend='pytorch')
    assert ours[1, :, 2, 3].isnan().all()
    ours[1, :, 2, 3] = expected[1, :, 2, 3]
    assert torch.equal(ours, expected)
