"""EFAR against a slow, direct reading of its description, and its invariants."""

import pytest
import torch
from basicsr.archs import build_network
from basicsr.archs.arch_util import flow_warp
from torch.nn import functional as F

from basicsr_plugins.archs import vsr_modules
from basicsr_plugins.archs.efar_arch import EFAR
from basicsr_plugins.archs.vsr_modules import FlowGuidedAlignment
from basicsr_plugins.errors import InputError


def small(**arguments):
    """A small EFAR whose alignment is not at its start, where offsets are zero."""
    torch.manual_seed(0)
    net = EFAR(**{'num_feat': 8, 'num_block': 1, 'dilations': (1, 2), **arguments}).eval()
    for module in net.modules():
        if isinstance(module, FlowGuidedAlignment):
            torch.nn.init.normal_(module.conv_offset.weight, std=0.05)
            torch.nn.init.normal_(module.conv_offset.bias, std=0.5)
    return net


def sample_bilinear(image, y, x):
    """One channel (h, w) at real coordinates, zeros outside."""
    h, w = image.shape
    value = 0.0
    for yy in (int(y // 1), int(y // 1) + 1):
        for xx in (int(x // 1), int(x // 1) + 1):
            if 0 <= yy < h and 0 <= xx < w:
                value += (1 - abs(y - yy)) * (1 - abs(x - xx)) * image[yy, xx].item()
    return value


@torch.no_grad()
def test_parameters():
    """The paper has 6.8 M; beside the defaults those of the choices that the module's docstring names."""

    def count(**arguments):
        return sum(p.numel() for p in EFAR(**arguments).parameters())

    assert count() == 6_786_331
    assert count(num_extract_block=2) == 6_954_651
    assert count(deform_groups=2) == 6_848_647
    assert count(deform_groups=4) == 6_973_279
    assert count(coupled_propagation=True) == 6_823_195
    assert count(deform_groups=2, coupled_propagation=True) == 6_885_511
    assert count(scale=2) == 6_638_619
    assert count(scale=3) == 6_823_259


@torch.no_grad()
def test_fusion_as_the_paper_has_it():
    """Section 2.3: after the fusion's convolution ReLU; without residual blocks nothing below zero is left."""
    step = small().backward_propagation
    frame, feat = torch.rand(1, 3, 9, 9), torch.randn(1, 8, 9, 9)
    fused = step.fusion.main[0](torch.cat([frame, feat, torch.zeros(1, 16, 9, 9)], dim=1))
    step.fusion.main[2] = torch.nn.Identity()
    assert (fused < 0).any()
    assert torch.equal(step(frame, feat, None, None, None, None), fused.clamp(min=0))


@torch.no_grad()
@pytest.mark.parametrize(('deform_groups', 'bound'), [(1, None), (2, 1.5)])
def test_alignment_equals_the_description(deform_groups, bound):
    """Section 2.3, tap by tap: offset = cat(O1, O2) + flow, mask = sigmoid, modulated deformable convolution."""
    torch.manual_seed(1)
    align = FlowGuidedAlignment(4, deform_groups, bound)
    torch.nn.init.normal_(align.conv_offset.weight, std=0.3)
    feat, neighbour = torch.randn(1, 4, 5, 6), torch.randn(1, 4, 5, 6)
    flow = torch.randn(1, 2, 5, 6) * 2
    out = F.conv2d(feat, align.conv_offset.weight, align.conv_offset.bias, padding=1)[0]
    taps = 9 * deform_groups
    residue, mask = out[: 2 * taps], out[2 * taps :].sigmoid()
    if bound:
        residue = bound * residue.tanh()
    expected = align.deform_conv.bias.view(-1, 1, 1).repeat(1, 5, 6).clone()
    per_group = 4 // deform_groups
    for o in range(4):
        for i in range(5):
            for j in range(6):
                for c in range(4):
                    for tap in range(9):
                        k = (c // per_group) * 9 + tap
                        y = i - 1 + tap // 3 + residue[2 * k, i, j].item() + flow[0, 1, i, j].item()
                        x = j - 1 + tap % 3 + residue[2 * k + 1, i, j].item() + flow[0, 0, i, j].item()
                        weight = align.deform_conv.weight[o, c, tap // 3, tap % 3]
                        expected[o, i, j] += weight * mask[k, i, j] * sample_bilinear(neighbour[0, c], y, x)
    torch.testing.assert_close(align(feat, neighbour, flow)[0], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_alignment_starts_as_warping_by_flow():
    """With offsets of zero and a kernel that is only its centre tap, it is half (sigmoid of 0) the toolbox's warp."""
    align = FlowGuidedAlignment(3, 1)
    torch.nn.init.zeros_(align.deform_conv.weight)
    torch.nn.init.zeros_(align.deform_conv.bias)
    for channel in range(3):
        align.deform_conv.weight[channel, channel, 1, 1] = 2.0
    torch.manual_seed(2)
    neighbour, flow = torch.rand(1, 3, 12, 16), torch.randn(1, 2, 12, 16) * 3
    warped = flow_warp(neighbour, flow.permute(0, 2, 3, 1))
    torch.testing.assert_close(align(torch.rand(1, 3, 12, 16), neighbour, flow), warped, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize('coupled', [False, True])
def test_recurrence_equals_the_description(coupled):
    """Three frames, written out: backward sees t+1 and F(t-1), forward sees t-1 and F(t+1)."""
    net = small(coupled_propagation=coupled)
    x = torch.rand(1, 3, 3, 20, 24)
    x0, x1, x2 = x.unbind(1)
    f0, f1, f2 = (net.extractor(frame) for frame in (x0, x1, x2))
    flow = {(i, j): net.spynet(x[:, i], x[:, j]) for i, j in ((0, 1), (1, 0), (1, 2), (2, 1))}
    zeros = torch.zeros_like(f0)

    backward, forward = net.backward_propagation, net.forward_propagation
    a, n = backward.align_state, backward.align_neighbour
    b2 = backward.fusion(torch.cat([x2, f2, zeros, n(f2, f1, flow[2, 1])], 1))
    b1 = backward.fusion(torch.cat([x1, f1, a(f1, b2, flow[1, 2]), n(f1, f0, flow[1, 0])], 1))
    b0 = backward.fusion(torch.cat([x0, f0, a(f0, b1, flow[0, 1]), zeros], 1))

    def extra(state):
        return [state] if coupled else []

    a, n = forward.align_state, forward.align_neighbour
    s0 = forward.fusion(torch.cat([x0, f0, zeros, n(f0, f1, flow[0, 1]), *extra(b0)], 1))
    s1 = forward.fusion(torch.cat([x1, f1, a(f1, s0, flow[1, 0]), n(f1, f2, flow[1, 2]), *extra(b1)], 1))
    s2 = forward.fusion(torch.cat([x2, f2, a(f2, s1, flow[2, 1]), zeros, *extra(b2)], 1))
    expected = [net.upsampler(*inputs) for inputs in ((x0, b0, s0), (x1, b1, s1), (x2, b2, s2))]
    torch.testing.assert_close(net(x), torch.stack(expected, 1))


@torch.no_grad()
def test_reversed_sequence_with_swapped_directions_is_the_reversed_result():
    net = small()
    x = torch.rand(1, 4, 3, 16, 16)
    expected = net(x).flip(1)
    net.backward_propagation, net.forward_propagation = net.forward_propagation, net.backward_propagation
    weight = net.upsampler.fusion.weight
    weight.copy_(torch.cat(weight.chunk(2, dim=1)[::-1], dim=1))
    torch.testing.assert_close(net(x.flip(1)), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_last_frame_reaches_the_first_output_and_the_first_the_last():
    net = small().double()
    x = torch.rand(1, 5, 3, 12, 12, dtype=torch.float64)
    y = net(x)
    for changed, seen in ((4, 0), (0, 4)):
        other = x.clone()
        other[:, changed] += 0.1
        assert (net(other)[:, seen] - y[:, seen]).abs().max() > 1e-10


@torch.no_grad()
@pytest.mark.parametrize(('t', 'h', 'w'), [(1, 16, 16), (2, 5, 7), (3, 33, 18), (2, 66, 35)])
def test_any_length_and_size(t, h, w):
    net = small()
    y = net(torch.rand(2, t, 3, h, w))
    assert y.shape == (2, t, 3, 4 * h, 4 * w)
    assert y.isfinite().all()


@torch.no_grad()
def test_samples_of_a_batch_do_not_mix():
    net = small()
    x = torch.rand(2, 3, 3, 16, 20)
    torch.testing.assert_close(net(x)[1:], net(x[1:]), rtol=1e-4, atol=1e-5)


def test_every_parameter_gets_a_gradient():
    """So that DistributedDataParallel needs no search for unused parameters."""
    net = small(coupled_propagation=True, deform_groups=2, max_residue_magnitude=10.0).train()
    net(torch.rand(1, 3, 3, 64, 64)).square().mean().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@torch.no_grad()
@pytest.mark.parametrize('scale', [2, 3, 4])
def test_without_its_last_convolution_it_is_bilinear(scale):
    net = small(scale=scale)
    torch.nn.init.zeros_(net.upsampler.conv_last.weight)
    torch.nn.init.zeros_(net.upsampler.conv_last.bias)
    x = torch.rand(1, 2, 3, 10, 10)
    expected = F.interpolate(x[0], scale_factor=scale, mode='bilinear', align_corners=False)
    torch.testing.assert_close(net(x)[0], expected)


@torch.no_grad()
@pytest.mark.parametrize('scale', [2, 3])
def test_one_stage_of_upsampling(scale):
    """Sub-pixel by sub-pixel: channel k * s * s + row * s + column of the convolution is a pixel of channel k."""
    up = small(scale=scale).upsampler
    frame, backward_state, state = torch.rand(1, 3, 4, 5), torch.randn(1, 8, 4, 5), torch.randn(1, 8, 4, 5)
    fused = up.upconv1(F.leaky_relu(up.fusion(torch.cat((backward_state, state), 1)), 0.1))
    feat = torch.zeros(1, 8, 4 * scale, 5 * scale)
    for row in range(scale):
        for column in range(scale):
            feat[:, :, row::scale, column::scale] = fused[:, row * scale + column :: scale**2]
    enlarged = F.interpolate(frame, scale_factor=scale, mode='bilinear', align_corners=False)
    feat = F.leaky_relu(up.fusion_x2(torch.cat((F.leaky_relu(feat, 0.1), enlarged), 1)), 0.1)
    torch.testing.assert_close(up(frame, backward_state, state), up.conv_last(feat) + enlarged)


def test_wrong_scale():
    with pytest.raises(InputError, match=r'scale must be one of \(2, 3, 4\), but is 8'):
        small(scale=8)


def test_says_once_that_flow_starts_untrained(monkeypatch):
    said = []
    vsr_modules._say_flow_starts_untrained.cache_clear()
    monkeypatch.setattr(
        vsr_modules, 'get_root_logger', lambda: type('L', (), {'warning': lambda _, text: said.append(text)})()
    )
    small()
    small()
    assert len(said) == 1
    assert 'starts untrained' in said[0]


def test_spynet_weights(shared):
    net = small(spynet_path=str(shared / 'weights' / 'spynet_sintel_final.pth'))
    torch.manual_seed(3)
    frame = F.interpolate(torch.rand(1, 3, 20, 20), size=(96, 96), mode='bicubic').clamp(0, 1)
    with torch.no_grad():
        flow = net.spynet(frame, frame.roll((2, 3), dims=(2, 3)))  # what is at (y, x) is at (y + 2, x + 3) in the other
    inside = flow[0, :, 24:-24, 24:-24].mean(dim=(1, 2))
    assert inside.tolist() == pytest.approx([3, 2], abs=0.3)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'deform_groups': 3}, r'deform_groups \(3\) must divide num_feat \(8\)'),
        ({'dilations': ()}, 'dilations must be one or more rates'),
        ({'spynet_path': 'nowhere.pth'}, 'spynet_path: there is no file nowhere.pth'),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        small(**arguments)


def test_wrong_spynet_file(tmp_path):
    torch.save({'params': {'something': torch.zeros(1)}}, tmp_path / 'other.pth')
    with pytest.raises(InputError, match=r'other.pth does not hold SpyNet weights'):
        small(spynet_path=str(tmp_path / 'other.pth'))


def test_wrong_shape():
    with pytest.raises(InputError, match=r'\(b, t, 3, h, w\), but got \(2, 3, 8, 8\)'):
        small()(torch.rand(2, 3, 8, 8))


@torch.no_grad()
def test_built_from_options():
    net = build_network({'type': 'EFAR', 'num_feat': 8, 'num_block': 1, 'dilations': [1, 3, 5]})
    assert [branch.dilation for branch in net.extractor[1].branches] == [(1, 1), (3, 3), (5, 5)]
