"""RLSP: the published counts, a direct reading of its cell, streaming, and what it sees of the future."""

import pytest
import torch
from basicsr.archs import build_network
from basicsr.utils.color_util import rgb2ycbcr_pt
from torch.nn import functional as F

from basicsr_plugins.archs.rlsp_arch import RLSP
from basicsr_plugins.archs.space_to_depth import depth_to_space, space_to_depth
from basicsr_plugins.errors import InputError


def small(**arguments):
    torch.manual_seed(0)
    return RLSP(**{'num_feat': 8, **arguments}).eval()


def test_space_to_depth_order():
    """Channel (row * 2 + column) * 3 + colour, and back."""
    x = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    blocks = space_to_depth(x, 2)
    for row in range(2):
        for column in range(2):
            for colour in range(3):
                expected = x[:, colour, row::2, column::2]
                torch.testing.assert_close(blocks[:, (row * 2 + column) * 3 + colour], expected, rtol=0, atol=0)
    assert torch.equal(depth_to_space(blocks, 2), x)
    assert torch.equal(depth_to_space(blocks.contiguous(memory_format=torch.channels_last), 2), x)


@pytest.mark.parametrize(
    ('num_feat', 'luma_only', 'count'),
    [
        (48, False, 190_896),
        (64, False, 319_024),
        (128, False, 1_154_096),
        (256, False, 4_372_528),
        (48, True, 163_216),
        (64, True, 282_128),
        (128, True, 1_080_336),
        (256, True, 4_225_040),
    ],
)
def test_parameters(num_feat, luma_only, count):
    net = build_network({'type': 'RLSP', 'num_feat': num_feat, 'luma_only': luma_only})
    assert sum(p.numel() for p in net.parameters()) == count


@torch.no_grad()
@pytest.mark.parametrize('luma_only', [False, True])
def test_equals_the_description(luma_only):
    """Two frames, written out pixel block by pixel block."""
    net = small(luma_only=luma_only, num_conv=2)
    x = torch.rand(1, 2, 3, 5, 6)
    x0, x1 = x.unbind(1)
    colours = 1 if luma_only else 3

    def cell(inputs, base):
        feat = F.relu(net.conv_first(torch.cat(inputs, 1)))
        for conv in net.body:
            feat = F.relu(conv(feat))
        both = net.conv_last(feat)
        image = F.interpolate(base, scale_factor=4, mode='nearest').clone()
        for k in range(16 * colours):
            image[:, k % colours, (k // colours) // 4 :: 4, (k // colours) % 4 :: 4] += both[:, k]
        return image, F.relu(both[:, 16 * colours :])

    def blocks(image):
        rows = [image[:, :, dy::4, dx::4] for dy in range(4) for dx in range(4)]
        return torch.cat(rows, 1)

    bases = [rgb2ycbcr_pt(frame, y_only=True) if luma_only else frame for frame in (x0, x1)]
    y0, s0 = cell([x0, x0, x1, torch.zeros(1, 16 * colours, 5, 6), torch.zeros(1, 8, 5, 6)], bases[0])
    y1, _ = cell([x0, x1, x1, blocks(y0), s0], bases[1])
    result = net(x)
    for output, expected in zip(result.unbind(1), (y0, y1)):
        seen = rgb2ycbcr_pt(output, y_only=True) if luma_only else output
        torch.testing.assert_close(seen, expected)


@torch.no_grad()
def test_without_its_last_convolution_it_is_nearest_neighbour():
    net = small()
    net.conv_last.weight.zero_()
    net.conv_last.bias.zero_()
    x = torch.rand(2, 3, 3, 7, 5)
    expected = F.interpolate(x.flatten(0, 1), scale_factor=4, mode='nearest').unflatten(0, (2, 3))
    assert torch.equal(net(x), expected)


@torch.no_grad()
def test_luma_alone_is_restored():
    """Chroma is the bicubically upsampled frame's, whatever the weights."""
    net = small(luma_only=True)
    x = torch.rand(1, 2, 3, 6, 8)
    bicubic = F.interpolate(x[0], scale_factor=4, mode='bicubic', align_corners=False)
    torch.testing.assert_close(rgb2ycbcr_pt(net(x)[0])[:, 1:], rgb2ycbcr_pt(bicubic)[:, 1:], rtol=0, atol=1e-5)


@torch.no_grad()
def test_sees_one_frame_ahead_and_all_before():
    net = small()
    x = torch.rand(1, 5, 3, 6, 6)
    y = net(x)
    later = x.clone()
    later[:, 3:] = torch.rand(1, 2, 3, 6, 6)
    assert torch.equal(net(later)[:, :2], y[:, :2])
    assert not torch.equal(net(later)[:, 2], y[:, 2])
    first = x.clone()
    first[:, 0] += 0.1
    assert not torch.equal(net(first)[:, 4], y[:, 4])


@torch.no_grad()
@pytest.mark.parametrize('luma_only', [False, True])
def test_frame_by_frame_equals_the_clip(luma_only):
    """Bit for bit; the state's size does not grow."""
    net = small(luma_only=luma_only)
    x = torch.rand(1, 4, 3, 6, 7)
    frames = [None, *x.unbind(1), None]
    state, shapes = None, set()
    for i, expected in enumerate(net(x).unbind(1)):
        previous_frame, frame, next_frame = frames[i : i + 3]
        state = net.forward_step(frame=frame, previous_frame=previous_frame, next_frame=next_frame, state=state)
        shapes.add(tuple(tuple(part.shape) for part in state))
        assert torch.equal(net.upsample(frame=frame, state=state), expected)
    assert shapes == {((1, 16 if luma_only else 48, 6, 7), (1, 8, 6, 7))}


@torch.no_grad()
@pytest.mark.parametrize('scale', [2, 3])
def test_other_scales(scale):
    net = small(scale=scale)
    net.conv_last.weight.zero_()
    net.conv_last.bias.zero_()
    x = torch.rand(1, 1, 3, 4, 6)
    assert torch.equal(net(x)[0], F.interpolate(x[0], scale_factor=scale, mode='nearest'))


@torch.no_grad()
def test_channels_last_gives_the_same():
    net = small()
    x = torch.rand(1, 3, 3, 8, 9)
    expected = net(x)
    net = net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(net(x), expected)


def test_every_parameter_gets_a_gradient():
    net = small().train()
    net(torch.rand(1, 3, 3, 8, 8)).square().mean().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


def test_wrong_scale():
    with pytest.raises(InputError, match=r'scale must be one of \(2, 3, 4\), but is 5'):
        small(scale=5)


@torch.no_grad()
@pytest.mark.parametrize('scale', [2, 3, 4])
def test_bilinear_chroma(scale):
    """Without a residual, luma is the nearest pixel's and chroma bilinear, to the border."""
    net = small(bilinear_chroma=True, scale=scale)
    net.conv_last.weight.zero_()
    net.conv_last.bias.zero_()
    x = torch.rand(1, 1, 3, 5, 6)
    out = net(x)[:, 0]
    nearest = F.interpolate(x[:, 0], scale_factor=scale, mode='nearest')
    bilinear = F.interpolate(x[:, 0], scale_factor=scale, mode='bilinear', align_corners=False)
    for found, expected, channels in ((out, nearest, slice(0, 1)), (out, bilinear, slice(1, 3))):
        found, expected = (rgb2ycbcr_pt(image)[:, channels] for image in (found, expected))
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    assert net.state_dict().keys() == small(scale=scale).state_dict().keys()


def test_bilinear_chroma_is_for_rgb():
    with pytest.raises(InputError, match='bilinear_chroma is for RGB; with luma_only chroma is bicubic already'):
        small(bilinear_chroma=True, luma_only=True)
