"""RRN: the published counts, a direct reading of its step, streaming, and what it sees of the future."""

import pytest
import torch
from basicsr.archs import build_network
from torch.nn import functional as F

from basicsr_plugins.archs.rrn_arch import RRN
from basicsr_plugins.errors import InputError


def small(**arguments):
    torch.manual_seed(0)
    return RRN(**{'num_feat': 8, 'num_block': 2, **arguments}).eval()


@pytest.mark.parametrize(('num_block', 'count'), [(10, 3_364_400), (5, 1_888_560)])
def test_parameters(num_block, count):
    assert sum(p.numel() for p in build_network({'type': 'RRN', 'num_block': num_block}).parameters()) == count


@torch.no_grad()
def test_equals_the_description():
    """Two frames, written out, the output kept at HR size between them."""
    net = small()
    x = torch.rand(1, 2, 3, 5, 6)
    x0, x1 = x.unbind(1)

    def cell(previous, frame, hidden, output):
        feat = F.relu(net.conv_first(torch.cat([previous, frame, hidden, F.pixel_unshuffle(output, 4)], 1)))
        for block in net.body:
            feat = feat + block.conv2(F.relu(block.conv1(feat)))
        base = F.interpolate(frame, scale_factor=4, mode='bilinear', align_corners=False)
        return F.relu(net.conv_hidden(feat)), F.pixel_shuffle(net.conv_last(feat), 4) + base

    hidden, y0 = cell(x0, x0, torch.zeros(1, 8, 5, 6), torch.zeros(1, 3, 20, 24))
    _, y1 = cell(x0, x1, hidden, y0)
    torch.testing.assert_close(net(x), torch.stack((y0, y1), 1))


@torch.no_grad()
def test_output_does_not_depend_on_later_frames():
    net = small()
    x = torch.rand(1, 4, 3, 6, 6)
    y = net(x)
    for i in range(1, 4):
        assert torch.equal(net(x[:, :i]), y[:, :i])
    first = x.clone()
    first[:, 0] += 0.1
    assert not torch.equal(net(first)[:, 3], y[:, 3])
    assert net.ahead == 0


@torch.no_grad()
def test_frame_by_frame_equals_the_clip():
    """Bit for bit; the state's size does not grow."""
    net = small()
    x = torch.rand(1, 4, 3, 6, 7)
    state, previous_frame = None, None
    for frame, expected in zip(x.unbind(1), net(x).unbind(1)):
        state = net.forward_step(frame=frame, previous_frame=previous_frame, state=state)
        previous_frame = frame
        assert torch.equal(net.upsample(frame=frame, state=state), expected)
        assert [tuple(part.shape) for part in state] == [(1, 8, 6, 7), (1, 48, 6, 7)]


@torch.no_grad()
@pytest.mark.parametrize('scale', [2, 3, 4])
def test_without_its_last_convolution_it_is_bilinear(scale):
    net = small(scale=scale)
    net.conv_last.weight.zero_()
    net.conv_last.bias.zero_()
    x = torch.rand(1, 2, 3, 5, 7)
    expected = F.interpolate(x[0], scale_factor=scale, mode='bilinear', align_corners=False)
    torch.testing.assert_close(net(x)[0], expected, rtol=0, atol=1e-6)


def test_every_parameter_gets_a_gradient():
    net = small().train()
    net(torch.rand(1, 3, 3, 8, 8)).square().mean().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


def test_wrong_scale():
    with pytest.raises(InputError, match=r'scale must be one of \(2, 3, 4\), but is 5'):
        small(scale=5)
