"""FRVSR: the published counts, flow and its sign, upsampling in both phases, streaming, the warping loss."""

import math

import pytest
import torch
from basicsr.archs import build_network
from torch.nn import functional as F

from basicsr_plugins.archs.frvsr_arch import FRVSR, FNet, warp
from basicsr_plugins.archs.phase_upsampling import upsample_from_corners
from basicsr_plugins.archs.space_to_depth import depth_to_space, space_to_depth
from basicsr_plugins.data.bd_lr import bd_downsample


def small(**arguments):
    torch.manual_seed(0)
    return FRVSR(**{'num_feat': 8, 'num_block': 1, **arguments}).eval()


@torch.no_grad()
def set_flow(net, x, y):
    """Make FNet give one flow everywhere."""
    net.fnet.conv_last.weight.zero_()
    net.fnet.conv_last.bias.copy_(torch.tensor([math.atanh(x / 24), math.atanh(y / 24)]))


@torch.no_grad()
def only_upsampling(net):
    net.srnet.conv_last.weight.zero_()
    net.srnet.conv_last.bias.zero_()


def smooth_clip(t=3, size=48):
    torch.manual_seed(1)
    return F.interpolate(torch.rand(t, 3, 8, 8), size=(size, size), mode='bicubic').clamp(0, 1).unsqueeze(0)


@pytest.mark.parametrize(('num_feat', 'count'), [(128, 5_054_693), (64, 2_589_093)])
def test_parameters(num_feat, count):
    net = build_network({'type': 'FRVSR', 'num_feat': num_feat})
    assert sum(p.numel() for p in net.parameters()) == count
    assert sum(p.numel() for p in net.fnet.parameters()) == 1_745_506


@torch.no_grad()
@pytest.mark.parametrize('size', [(16, 24), (13, 18), (5, 7)])
def test_flow_of_any_size(size):
    """The same as FNet on frames whose border is repeated to multiples of 8; bounded."""
    net = small()
    net.fnet.conv_last.weight.mul_(1e3)
    frame, other = torch.rand(2, 1, 3, *size)
    flow = net.flow(frame, other)
    assert flow.shape == (1, 2, *size)
    assert 20 < flow.abs().max() <= 24
    height, width = (-(-side // 8) * 8 for side in size)
    rows = torch.arange(height).clamp(max=size[0] - 1)
    columns = torch.arange(width).clamp(max=size[1] - 1)
    padded = torch.cat((frame, other), 1)[:, :, rows][..., columns]
    assert torch.equal(flow, net.fnet(padded)[:, :, : size[0], : size[1]])


@torch.no_grad()
def test_flow_without_its_last_convolution_is_zero_and_warping_the_identity():
    net = small()
    set_flow(net, 0, 0)
    frame, other = torch.rand(2, 1, 3, 16, 24)
    flow = net.flow(frame, other)
    assert torch.equal(flow, torch.zeros(1, 2, 16, 24))
    torch.testing.assert_close(warp(other, flow), other, rtol=0, atol=1e-5)


@torch.no_grad()
def test_sign_of_flow():
    """A frame whose content lies 3 pixels further right than in the other has flow -3 to the other."""
    net = small()
    other = smooth_clip(1)[0]
    frame = other.roll(3, dims=3)
    lq = torch.stack((other, frame), 1)
    warp_loss = {}
    for x in (-3, 3):
        set_flow(net, x, 0)
        torch.testing.assert_close(net.flow(frame, other)[0, :, 20, 20], torch.tensor([float(x), 0.0]))
        warped = warp(other, net.flow(frame, other))
        warp_loss[x] = (warped - frame)[..., 8:-8].abs().mean().item()
        assert set(net.auxiliary_losses(None, lq, None, F.l1_loss)) == {'warp'}
    assert warp_loss[-3] < 1e-5 < 0.05 < warp_loss[3]


@torch.no_grad()
@pytest.mark.parametrize('lr_at_corner', [False, True])
def test_the_previous_output_is_warped_at_hr_size(lr_at_corner):
    """LR flow (-3, 2) moves the previous HR output by 12 right and 8 up before it enters SRNet."""
    net = small(lr_at_corner=lr_at_corner)
    seen = []
    net.srnet.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    previous = torch.rand(1, 3, 64, 96)
    flow = torch.tensor([-3.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, 16, 24)
    frame = torch.rand(1, 3, 16, 24)
    net.forward_step(frame=frame, state=space_to_depth(previous, 4), flow_to_previous=flow)
    assert torch.equal(seen[0][:, :3], frame)
    entered = depth_to_space(seen[0][:, 3:], 4)
    moved = previous.roll((-8, 12), dims=(2, 3))
    torch.testing.assert_close(entered[..., :-8, 12:], moved[..., :-8, 12:], rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize('lr_at_corner', [False, True])
def test_without_its_last_convolution_it_upsamples(lr_at_corner):
    net = small(residual=True, lr_at_corner=lr_at_corner)
    only_upsampling(net)
    x = torch.rand(1, 1, 3, 9, 11).expand(1, 3, 3, 9, 11)
    upsampled = F.interpolate(x[0], scale_factor=4, mode='bilinear', align_corners=False)
    if lr_at_corner:
        upsampled = upsample_from_corners(x[0], 4)
    assert torch.equal(net(x)[0], upsampled)
    net.residual = False
    assert torch.equal(net(x), torch.zeros(1, 3, 3, 36, 44))


def test_upsampling_from_corners():
    """LR pixel j is HR pixel 4 * j; half-way Keys' kernel with a = -0.75 is -3/32, 19/32, 19/32, -3/32."""
    x = torch.rand(2, 3, 8, 9, dtype=torch.float64)
    y = upsample_from_corners(x, 4)
    torch.testing.assert_close(y[:, :, ::4, ::4], x)
    row = x[0, 0, 3]
    expected = torch.dot(row[2:6], torch.tensor([-3, 19, 19, -3], dtype=torch.float64) / 32)
    assert y[0, 0, 12, 14].item() == pytest.approx(expected.item())
    assert y[0, 0, 12, -1].item() == pytest.approx(_border_value(row))
    constant = torch.full((1, 1, 5, 5), 0.4, dtype=torch.float64)
    torch.testing.assert_close(upsample_from_corners(constant, 4), torch.full((1, 1, 20, 20), 0.4, dtype=torch.float64))


def _border_value(row):
    """3/4 behind the last pixel: it is repeated, the one before it counts by its weight at a distance of 1.75."""
    far = -0.75 * (1.75**3 - 5 * 1.75**2 + 8 * 1.75 - 4)
    return far * row[-2].item() + (1 - far) * row[-1].item()


def test_upsampling_fits_the_degradation():
    """Blurred LR frames, enlarged, lie where the GT lies: less error than bilinearly enlarged, which is 1.5 px off."""
    gt = smooth_clip(1, 96)[0]
    lq = bd_downsample(gt, 'bd_tecogan')
    errors = [
        (enlarged - gt)[..., 12:-12, 12:-12].abs().mean().item()
        for enlarged in (
            upsample_from_corners(lq, 4),
            F.interpolate(lq, scale_factor=4, mode='bilinear', align_corners=False),
        )
    ]
    assert errors[0] < 0.25 * errors[1]


@torch.no_grad()
def test_frame_by_frame_equals_the_clip():
    """Bit for bit; the state's size does not grow; later frames change nothing."""
    net = small()
    x = torch.rand(1, 4, 3, 13, 10)
    y = net(x)
    assert torch.equal(net(x[:, :2]), y[:, :2])
    state = previous = None
    for frame, expected in zip(x.unbind(1), y.unbind(1)):
        flow = None if previous is None else net.flow(frame, previous)
        state = net.forward_step(frame=frame, state=state, flow_to_previous=flow)
        previous = frame
        assert torch.equal(net.upsample(frame=frame, state=state), expected)
        assert state.shape == (1, 48, 13, 10)


def test_fnet_reads_both_frames_in_order():
    torch.manual_seed(2)
    net = FNet().eval()
    frame, other = torch.rand(2, 1, 3, 16, 16)
    assert not torch.equal(net(torch.cat((frame, other), 1)), net(torch.cat((other, frame), 1)))


def test_every_parameter_gets_a_gradient():
    """FNet learns from the warping loss alone already, and from the outputs."""
    net = small().train()
    x, gt = torch.rand(2, 3, 3, 16, 16), torch.rand(2, 3, 3, 64, 64)
    losses = net.auxiliary_losses(None, x, gt, F.mse_loss)
    losses['warp'].backward()
    assert [name for name, p in net.fnet.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []
    net.zero_grad()
    F.mse_loss(net(x), gt).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


def test_a_single_frame_has_no_warping_loss():
    assert small().auxiliary_losses(None, torch.rand(1, 1, 3, 8, 8), None, F.l1_loss) == {}
