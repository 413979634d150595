"""RSDN: the published count, its decomposition and adaptation by slow readings, streaming, its own losses."""

import pytest
import torch
from basicsr.archs import build_network
from torch.nn import functional as F

from basicsr_plugins.archs.rsdn_arch import RSDN, split_structure


def small(**arguments):
    torch.manual_seed(0)
    return RSDN(**{'num_feat': 8, 'num_block': 2, **arguments}).eval()


def test_parameters():
    assert sum(p.numel() for p in build_network({'type': 'RSDN'}).parameters()) == 6_180_236


@pytest.mark.parametrize('size', [(8, 10), (7, 9), (2, 3)])
def test_structure_and_detail_sum_to_the_image(size):
    image = torch.rand(2, 3, *size)
    structure, detail = split_structure(image)
    assert torch.equal(detail, image - structure)
    torch.testing.assert_close(structure + detail, image, rtol=0, atol=1e-7)
    torch.testing.assert_close(split_structure(torch.full((1, 3, *size), 0.3))[1], torch.zeros(1, 3, *size))


def test_structure_of_an_image():
    """Halving takes means of 2x2 pixels; doubling reads them bilinearly, 3/4 of the nearer and 1/4 of the other."""
    row = torch.tensor([0.0, 2, 4, 6, 8, 2]).expand(1, 3, 4, 6)
    means = [1.0, 5.0, 5.0]
    expected = [1, 0.75 * 1 + 0.25 * 5, 0.25 * 1 + 0.75 * 5, 5, 5, 5]
    assert split_structure(row)[0][0, 0, 1].tolist() == pytest.approx(expected)
    assert F.avg_pool2d(row, 2)[0, 0, 0].tolist() == means


@torch.no_grad()
def test_adaptation_pixel_by_pixel():
    net = small(num_feat=3)
    hidden, frame = torch.randn(1, 3, 4, 5), torch.rand(1, 3, 4, 5)
    taps = F.leaky_relu(net.conv_filter(frame), 0.1)
    expected = torch.empty_like(hidden)
    for c in range(3):
        for i in range(4):
            for j in range(5):
                found = 0.0
                for k in range(9):
                    y, x = i + k // 3 - 1, j + k % 3 - 1
                    if 0 <= y < 4 and 0 <= x < 5:
                        found += taps[0, k, i, j] * hidden[0, c, y, x]
                expected[0, c, i, j] = hidden[0, c, i, j] * torch.sigmoid(torch.as_tensor(found))
    torch.testing.assert_close(net.adapt(hidden, frame), expected)


@torch.no_grad()
def test_second_frame_equals_the_description():
    net = small()
    x = torch.rand(1, 2, 3, 6, 6)
    x0, x1 = x.unbind(1)
    hidden, detail, structure = net.forward_step(frame=x0, previous_frame=None, state=None)

    def lrelu(value):
        return torch.where(value > 0, value, 0.1 * value)

    (s0, d0), (s1, d1) = split_structure(x0), split_structure(x1)
    hidden = net.adapt(hidden, x1)
    d = lrelu(net.conv_detail(torch.cat([d0, d1, hidden, detail], 1)))
    e = lrelu(net.conv_structure(torch.cat([s0, s1, hidden, structure], 1)))
    for block in net.body:
        (d1, _, d2), (e1, _, e2) = block.detail, block.structure
        u = d2(d1(d).clamp(min=0)) + e2(e1(e).clamp(min=0))
        d, e = d + u, e + u
    last = torch.cat([net.last_detail(d), net.last_structure(e)], 1)
    expected = F.pixel_shuffle(net.conv_last(last), 4)
    torch.testing.assert_close(net(x)[:, 1], expected)


@torch.no_grad()
def test_frame_by_frame_equals_the_clip():
    """Bit for bit; the state's size does not grow; later frames change nothing."""
    net = small()
    x = torch.rand(1, 4, 3, 5, 7)
    y = net(x)
    assert torch.equal(net(x[:, :2]), y[:, :2])
    state, previous_frame = None, None
    for frame, expected in zip(x.unbind(1), y.unbind(1)):
        state = net.forward_step(frame=frame, previous_frame=previous_frame, state=state)
        previous_frame = frame
        assert torch.equal(net.upsample(frame=frame, state=state), expected)
        assert [tuple(part.shape) for part in state] == [(1, 8, 5, 7), (1, 48, 5, 7), (1, 48, 5, 7)]


def test_own_losses():
    """In training structure and detail come too; they are compared with the GT's, all parameters learn from them."""
    net = small().train()
    x, gt = torch.rand(2, 3, 3, 6, 6), torch.rand(2, 3, 3, 24, 24)
    output = net(x)
    torch.testing.assert_close(output[0], net.eval()(x))
    net.train()
    losses = net.auxiliary_losses(output, x, gt, F.l1_loss)
    assert set(losses) == set(net.auxiliary_weights) == {'structure', 'detail'}
    structure = F.interpolate(F.avg_pool2d(gt.flatten(0, 1), 2), scale_factor=2, mode='bilinear').view_as(gt)
    assert losses['structure'].item() == pytest.approx((output[1] - structure).abs().mean().item(), rel=1e-5)
    assert losses['detail'].item() == pytest.approx((output[2] - (gt - structure)).abs().mean().item(), rel=1e-5)
    (F.l1_loss(output[0], gt) + sum(losses.values())).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []
