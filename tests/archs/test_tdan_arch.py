"""TDAN: the published count, its alignment against plain convolutions and a slow reading, its own loss."""

import pytest
import torch
from basicsr.archs import build_network
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from basicsr_plugins.archs.tdan_arch import TDAN, DeformConv
from basicsr_plugins.errors import InputError


def small(**arguments):
    torch.manual_seed(0)
    net = TDAN(**{'num_feat': 8, 'num_extract_block': 1, 'num_block': 1, 'deform_groups': 2, **arguments})
    return net.eval()


def with_offsets(net):
    """Offsets that are not zero, where they start."""
    for module in net.modules():
        if isinstance(module, DeformConv):
            torch.nn.init.normal_(module.conv_offset.weight, std=0.3)
            torch.nn.init.normal_(module.conv_offset.bias, std=0.5)
    return net


def test_parameters():
    assert sum(p.numel() for p in build_network({'type': 'TDAN'}).parameters()) == 1_970_819


@torch.no_grad()
def test_starts_with_plain_convolutions():
    net = small().train()
    x = torch.rand(1, 5, 3, 7, 6)

    def conv(deform, feat):
        return F.conv2d(feat, deform.deform_conv.weight, padding=1)

    align = net.alignment
    feats = [net.extractor(frame - 0.5) for frame in x.unbind(1)]
    images = []
    for feat in feats:
        a = align.fusion(torch.cat((feats[2], feat), 1))
        a = conv(align.aggregate2, conv(align.aggregate1, a))
        images.append(net.conv_aligned(conv(align.refine, conv(align.align, feat))) + 0.5)
    images[2] = x[:, 2]
    output, aligned = net(x)
    torch.testing.assert_close(aligned, torch.stack(images, 1))
    expected = net.conv_last(net.reconstruction(torch.cat(images, 1) - 0.5)) + 0.5
    torch.testing.assert_close(output, expected)


@torch.no_grad()
def test_alignment_by_the_first_version_of_deformable_convolution():
    """Torchvision's without a mask; the third takes its offsets from the fused feature, the others from their input."""
    align = with_offsets(small()).alignment
    centre, supporting = torch.randn(2, 1, 8, 6, 7)

    def deform(layer, x, feat):
        return deform_conv2d(x, layer.conv_offset(feat), layer.deform_conv.weight, padding=1)

    a = align.fusion(torch.cat((centre, supporting), 1))
    a = deform(align.aggregate1, a, a)
    a = deform(align.aggregate2, a, a)
    b = deform(align.align, supporting, a)
    torch.testing.assert_close(align(centre, supporting), deform(align.refine, b, b), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_permuted_supporting_frames_permute_their_aligned_images():
    net = with_offsets(small()).train()
    x = torch.rand(1, 5, 3, 6, 6)
    order = [4, 1, 2, 3, 0]
    _, aligned = net(x)
    _, permuted = net(x[:, order])
    torch.testing.assert_close(permuted, aligned[:, order])
    assert torch.equal(aligned[:, 2], x[:, 2])


@torch.no_grad()
def test_without_its_last_convolution_it_is_grey():
    net = small()
    net.conv_last.weight.zero_()
    assert torch.equal(net(torch.rand(1, 5, 3, 6, 8)), torch.full((1, 3, 24, 32), 0.5))


@torch.no_grad()
def test_features_serve_all_windows():
    net = with_offsets(small())
    x = torch.rand(1, 5, 3, 6, 8)
    feats = [net.extract_features(frame) for frame in x.unbind(1)]
    assert torch.equal(net.restore(x[:, 2], feats), net(x))


def test_own_loss():
    """In training the aligned images come too; each is compared with the centre frame."""
    net = with_offsets(small()).train()
    x, gt = torch.rand(2, 5, 3, 6, 6), torch.rand(2, 3, 24, 24)
    output = net(x)
    torch.testing.assert_close(output[0], net.eval()(x))
    loss = net.auxiliary_losses(output, x, gt, F.mse_loss)
    assert net.auxiliary_weights == {'aligned': 0.01}
    expected = sum((output[1][:, i] - x[:, 2]).square().mean().item() for i in range(5)) / 5
    assert loss['aligned'].item() == pytest.approx(expected, rel=1e-5)
    (F.mse_loss(output[0], gt) + loss['aligned']).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'num_frame': 4}, 'num_frame must be odd, but is 4'),
        ({'deform_groups': 3}, r'deform_groups \(3\) must divide num_feat \(8\)'),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        small(**arguments)


def test_wrong_window():
    with pytest.raises(InputError, match=r'\(b, 5, 3, h, w\), but got \(1, 7, 3, 8, 8\)'):
        small()(torch.rand(1, 7, 3, 8, 8))
