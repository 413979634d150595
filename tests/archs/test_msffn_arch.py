"""MSFFN against direct, slow computations of its equations."""

import math

import cv2
import pytest
import torch
from basicsr.archs import build_network
from torch import nn
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from basicsr_plugins.archs.msffn_alignment import (
    FlowAlignment,
    MDDAlignment,
    MultiScaleDilatedResidualBlock,
    PyramidAlignment,
    TDAlignment,
)
from basicsr_plugins.archs.msffn_arch import (
    MSFFN,
    ModulativeResidualFusionBlock,
    SpatialFeatureTransform,
    similarity_mask,
)
from basicsr_plugins.errors import InputError

SMALL = {'num_feat': 8, 'num_extract_block': 1, 'num_mdrb': 1, 'num_block': 2, 'deform_groups': 2}


def shaken(net):
    """No parameter at zero, where a wrong path would not show."""
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return net.eval()


def num_param(net):
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize(
    ('arguments', 'count', 'published'),
    [
        ({}, 8_791_899, 8.5e6),  # Table I
        ({'num_feat': 64}, 5_654_235, 5.69e6),  # Table V
        ({'num_feat': 64, 'alignment': 'none'}, 4_237_955, 4.21e6),
        ({'num_feat': 64, 'alignment': 'flow'}, 5_678_255, 5.43e6),
        ({'num_feat': 64, 'alignment': 'tda'}, 4_957_987, 4.90e6),
        ({'num_feat': 64, 'alignment': 'pcd'}, 5_769_955, 5.73e6),
        ({'num_feat': 64, 'fusion': 'direct'}, 3_524_315, None),  # Table VI has no counts
        ({'num_feat': 64, 'fusion': '3d'}, 3_598_171, None),
        ({'scale': 2}, 8_561_179, None),
        ({'scale': 3}, 8_849_579, None),
    ],
    ids=['80', '64', 'none', 'flow', 'tda', 'pcd', 'direct', '3d', 'x2', 'x3'],
)
def test_number_of_parameters(arguments, count, published):
    assert num_param(MSFFN(**arguments)) == count
    assert published is None or count == pytest.approx(published, rel=0.05)


def test_attention_and_feedback_have_no_parameters():
    assert num_param(MSFFN(**SMALL)) == num_param(MSFFN(**SMALL, attention=False, feedback=False))


def test_mask_at_each_position():
    """Equation 8, position by position."""
    torch.manual_seed(0)
    feat, aligned = torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3, 4)
    mask = similarity_mask(feat, aligned)
    assert mask.shape == (2, 1, 3, 4)
    for b in range(2):
        for y in range(3):
            for x in range(4):
                distance = sum(abs(float(feat[b, c, y, x]) - float(aligned[b, c, y, x])) for c in range(5))
                assert float(mask[b, 0, y, x]) == pytest.approx(1 / (1 + math.exp(distance)), rel=1e-5)
    assert torch.equal(similarity_mask(feat, feat), torch.full((2, 1, 3, 4), 0.5))
    assert similarity_mask(feat, feat + 1e4).eq(0).all()  # where the exponential overflows


def conv3x3_slowly(feat, weight, bias):
    """(c, h, w) -> (o, h, w), sums written out."""
    c, h, w = feat.shape
    padded = torch.zeros(c, h + 2, w + 2, dtype=feat.dtype)
    padded[:, 1:-1, 1:-1] = feat
    out = torch.empty(weight.size(0), h, w, dtype=feat.dtype)
    for o in range(weight.size(0)):
        for y in range(h):
            for x in range(w):
                out[o, y, x] = (padded[:, y : y + 3, x : x + 3] * weight[o]).sum() + bias[o]
    return out


@torch.no_grad()
def test_spatial_feature_transform():
    """Equation 9: gamma and beta from the condition, then feat * gamma + beta at each position."""
    sft = shaken(SpatialFeatureTransform(4)).double()
    feat, condition = torch.randn(1, 4, 3, 5).double(), torch.randn(1, 4, 3, 5).double()
    gamma = conv3x3_slowly(condition[0], sft.conv_gamma.weight, sft.conv_gamma.bias)
    beta = conv3x3_slowly(condition[0], sft.conv_beta.weight, sft.conv_beta.bias)
    torch.testing.assert_close(sft(feat, condition)[0], gamma * feat[0] + beta)


@torch.no_grad()
def test_modulation_starts_near_the_identity():
    torch.manual_seed(0)
    feat, condition = torch.randn(1, 16, 8, 8), torch.rand(1, 16, 8, 8)
    out = SpatialFeatureTransform(16)(feat, condition)
    assert (out - feat).abs().mean() < 0.3 * feat.abs().mean()


@torch.no_grad()
def test_modulative_residual_fusion_block():
    """A transform after each of both convolutions, ReLU between them, and a shortcut."""
    block = shaken(ModulativeResidualFusionBlock(4)).double()
    feat, condition = torch.randn(1, 4, 3, 5).double(), torch.randn(1, 4, 3, 5).double()
    first = conv3x3_slowly(feat[0], block.conv1.weight, block.conv1.bias)[None]
    first = block.sft1(first, condition).clamp(min=0)
    second = conv3x3_slowly(first[0], block.conv2.weight, block.conv2.bias)[None]
    torch.testing.assert_close(block(feat, condition), feat + block.sft2(second, condition))


@torch.no_grad()
def test_multi_scale_dilated_residual_block_sees_eleven_by_eleven():
    """What one input position reaches: 5x5, then dilation 3, is 11x11 positions; no other."""
    block = shaken(MultiScaleDilatedResidualBlock(4))
    feat = torch.randn(1, 4, 21, 21)
    changed = feat.clone()
    changed[..., 10, 10] += 1
    reached = (block(changed) - block(feat)).abs().sum(dim=1)[0] > 0
    assert reached[5:16, 5:16].all()
    assert reached.sum() == 11 * 11


@torch.no_grad()
def test_alignment_samples_where_theta_says():
    """Equation 6: with offsets that are the same everywhere and a kernel that keeps one tap, alignment shifts."""
    alignment = MDDAlignment(4, num_mdrb=1, deform_groups=2).eval()
    support, feat = torch.randn(1, 4, 9, 10), torch.randn(1, 4, 9, 10)
    dy, dx = 2, -1
    offsets = torch.tensor([dy, dx] * (2 * 9), dtype=torch.float32)
    alignment.conv_offset.bias[: 2 * 2 * 9] = offsets
    alignment.conv_offset.bias[2 * 2 * 9 :] = 100.0  # the modulation scalar becomes 1
    alignment.deform_conv.weight.zero_()
    alignment.deform_conv.weight[range(4), range(4), 1, 1] = 1.0
    alignment.deform_conv.bias.zero_()
    aligned = alignment(support, feat)
    torch.testing.assert_close(aligned[..., :-dy, -dx:], support[..., dy:, :dx])
    assert aligned[..., -dy:, :].eq(0).all()


@torch.no_grad()
def test_the_frames_of_a_window_take_their_parts():
    """Aligned supports in the order of the frames (equation 3), each weighted by its own mask (equation 7)."""
    net = shaken(MSFFN(**SMALL, num_frame=3))
    frames = torch.rand(1, 3, 3, 10, 12)
    feats = [net.extractor(frames[:, i]) for i in range(3)]
    supports = []
    for i in (0, 2):
        aligned = net.alignment(feats[i], feats[1])
        supports.append(aligned * similarity_mask(feats[1], aligned))
    condition = F.leaky_relu(F.conv2d(torch.cat(supports, dim=1), net.condition[0].weight, net.condition[0].bias), 0.1)
    once = feats[1]
    for block in net.blocks:
        once = block(once, condition)
    twice = feats[1] + once  # feedback: the last block's output joins the first one's input
    for block in net.blocks:
        twice = block(twice, condition)
    expected = net.reconstruct(twice + feats[1], frames[:, 1])
    torch.testing.assert_close(net(frames), expected)

    net.feedback = False
    torch.testing.assert_close(net(frames), net.reconstruct(once + feats[1], frames[:, 1]))
    assert (net(frames) - expected).abs().max() > 1e-3


@torch.no_grad()
def test_flow_alignment_follows_real_motion(shared):
    """SpyNet finds a shift of (2, -3) between crops of a real frame, and warping undoes it, in the right direction."""
    path = sorted((shared / 'data' / 'Vid4' / 'BIx4' / 'city').iterdir())[0]
    image = torch.from_numpy(cv2.imread(str(path))[..., ::-1].copy()).permute(2, 0, 1)[None] / 255
    frame, support = image[..., 30:94, 30:94], image[..., 32:96, 27:91]
    alignment = FlowAlignment(str(shared / 'weights' / 'spynet_sintel_final.pth')).eval()
    feat = 1 - frame  # a feature that is not the frame, so that it shows which of the two is warped
    aligned = alignment(torch.cat((1 - support, support), dim=1), torch.cat((feat, frame), dim=1))
    inner = (..., slice(8, -8), slice(8, -8))
    assert (aligned - feat)[inner].abs().mean() < 0.1 * (1 - support - feat)[inner].abs().mean()


@torch.no_grad()
def test_flow_keeps_its_precision():
    """Under autocast it is the very flow of float32."""
    alignment = shaken(FlowAlignment(None))
    support, feat = torch.rand(2, 1, 7, 32, 40)
    expected = alignment(support, feat)
    with torch.autocast('cpu', torch.bfloat16):
        torch.testing.assert_close(alignment(support, feat), expected, rtol=0, atol=0)


@torch.no_grad()
def test_flow_alignment_in_the_network():
    """Each supporting feature is warped by the flow of its own frame; the mask and the condition see features alone."""
    net = shaken(MSFFN(**SMALL, num_frame=3, alignment='flow'))

    class Shift(nn.Module):
        """Flow that differs between supporting frames: as many pixels as their mean, to the right."""

        def forward(self, frame, support):
            flow = torch.zeros(1, 2, *frame.shape[-2:])
            flow[:, 0] = support.mean().round() - frame.mean().round()
            return flow

    net.alignment.spynet = Shift()
    frames = torch.rand(1, 3, 3, 10, 12) * 0.4 + torch.tensor([1.0, 0.0, 3.0]).view(1, 3, 1, 1, 1)
    feats = [net.extractor(frames[:, i]) for i in range(3)]
    supports = []
    for i, pixels in ((0, 1), (2, 3)):
        aligned = F.pad(feats[i][..., pixels:], (0, pixels))
        supports.append(aligned * similarity_mask(feats[1], aligned))
    expected = net.reconstruct(net.fuse(feats[1], supports), frames[:, 1])
    torch.testing.assert_close(net(frames), expected)


def test_flow_is_estimated_where_there_is_something_to_align():
    assert MSFFN(**SMALL, num_frame=3, alignment='flow').estimates_flow
    assert not MSFFN(**SMALL, num_frame=1, alignment='flow').estimates_flow
    assert not MSFFN(**SMALL, num_frame=3).estimates_flow


def deform_with(pack, x, feat):
    """torchvision's deformable convolution with the sampling parameters that `pack` makes of `feat`."""
    sampling = F.conv2d(feat, pack.conv_offset.weight, pack.conv_offset.bias, padding=1)
    third = sampling.size(1) // 3
    return deform_conv2d(
        x, sampling[:, : 2 * third], pack.weight, pack.bias, 1, 1, 1, sampling[:, 2 * third :].sigmoid()
    )


@torch.no_grad()
def test_tda():
    """Four deformable convolutions; the third one aligns the supporting feature, by what the two before have made."""
    alignment = shaken(TDAlignment(4, deform_groups=2)).double()
    support, feat = torch.randn(2, 1, 4, 9, 10).double()
    common = F.conv2d(torch.cat((support, feat), 1), alignment.bottleneck.weight, alignment.bottleneck.bias, padding=1)
    for pack in (alignment.common1, alignment.common2):
        common = deform_with(pack, common, common)
    aligned = deform_with(alignment.align, support, common)
    torch.testing.assert_close(alignment(support, feat), deform_with(alignment.refine, aligned, aligned))


@torch.no_grad()
@pytest.mark.parametrize(('h', 'w'), [(12, 16), (11, 13), (2, 3)])
def test_pcd(h, w):
    """EDVR's alignment by torchvision's operation: from the coarsest level to the finest, then once more."""
    alignment = shaken(PyramidAlignment(4, deform_groups=2)).double()
    pcd = alignment.pcd

    def lrelu(x):
        return F.leaky_relu(x, 0.1)

    def conv(layer, *inputs, stride=1):
        return F.conv2d(torch.cat(inputs, 1), layer.weight, layer.bias, stride, padding=1)

    def pyramid(feat):
        levels = [feat]
        for halve in (alignment.conv_l2, alignment.conv_l3):
            levels.append(lrelu(conv(halve[2], lrelu(conv(halve[0], levels[-1], stride=2)))))
        return levels

    def enlarge(x):
        return F.interpolate(x, scale_factor=2, mode='bilinear', align_corners=False)

    support, feat = torch.randn(2, 1, 4, h, w).double()
    padded = [F.pad(x, (0, -w % 4, 0, -h % 4), mode='replicate') for x in (support, feat)]
    supports, feats = pyramid(padded[0]), pyramid(padded[1])
    theta = lrelu(conv(pcd.offset_conv1['l3'], supports[2], feats[2]))
    theta = lrelu(conv(pcd.offset_conv2['l3'], theta))
    aligned = lrelu(deform_with(pcd.dcn_pack['l3'], supports[2], theta))
    for level, name in ((1, 'l2'), (0, 'l1')):
        coarser, theta = 2 * enlarge(theta), lrelu(conv(pcd.offset_conv1[name], supports[level], feats[level]))
        theta = lrelu(conv(pcd.offset_conv3[name], lrelu(conv(pcd.offset_conv2[name], theta, coarser))))
        fine = deform_with(pcd.dcn_pack[name], supports[level], theta)
        aligned = conv(pcd.feat_conv[name], fine, enlarge(aligned))
        aligned = lrelu(aligned) if name == 'l2' else aligned
    theta = lrelu(conv(pcd.cas_offset_conv2, lrelu(conv(pcd.cas_offset_conv1, aligned, padded[1]))))
    expected = lrelu(deform_with(pcd.cas_dcnpack, aligned, theta))[..., :h, :w]
    torch.testing.assert_close(alignment(support, feat), expected)


@torch.no_grad()
def test_3d_fusion():
    """Three frames at a time, in their order, until one is left."""
    net = shaken(MSFFN(**SMALL, num_frame=5, fusion='3d', alignment='none', attention=False, feedback=False))
    frames = torch.rand(1, 5, 3, 9, 10)
    window = [net.extractor(frames[:, i]) for i in range(5)]
    first, second = net.one_stage_fusion.convs

    def slide(conv, window):
        taps = conv.weight.unbind(2)  # (o, c, 3, 3) for each of the three frames
        return [
            sum(F.conv2d(window[i + k], taps[k], padding=1) for k in range(3)) + conv.bias.view(1, -1, 1, 1)
            for i in range(len(window) - 2)
        ]

    (fused,) = slide(second, [F.leaky_relu(one, 0.1) for one in slide(first, window)])
    high = net.blocks[1](net.blocks[0](fused))
    torch.testing.assert_close(net(frames), net.reconstruct(high + fused, frames[:, 2]))
    assert not any(isinstance(module, SpatialFeatureTransform) for module in net.modules())


@torch.no_grad()
@pytest.mark.parametrize('arguments', [{'alignment': 'none'}, {'attention': False}, {'fusion': 'direct'}])
def test_ablations(arguments):
    """What a switch turns off has no influence any more, and what it leaves works as before."""
    net = shaken(MSFFN(**SMALL, num_frame=3, **arguments))
    frames = torch.rand(1, 3, 3, 10, 12)
    feats = [net.extractor(frames[:, i]) for i in range(3)]
    supports = [feats[0], feats[2]]
    if net.alignment is not None:
        supports = [net.alignment(support, feats[1]) for support in supports]
    if net.attention:
        supports = [support * similarity_mask(feats[1], support) for support in supports]
    if arguments.get('fusion') == 'direct':
        stacked = torch.cat([feats[1], *supports], dim=1)
        feat = F.conv2d(stacked, net.one_stage_fusion.conv.weight, net.one_stage_fusion.conv.bias, padding=1)
        high = net.blocks[1](net.blocks[0](feat))
        high = net.blocks[1](net.blocks[0](feat + high))
        assert not any(isinstance(module, SpatialFeatureTransform) for module in net.modules())
    else:
        feat = feats[1]
        condition = net.condition(torch.cat(supports, dim=1))
        high = net.blocks[1](net.blocks[0](feat, condition), condition)
        high = net.blocks[1](net.blocks[0](feat + high, condition), condition)
    torch.testing.assert_close(net(frames), net.reconstruct(high + feat, frames[:, 1]))


@torch.no_grad()
def test_one_frame_is_a_single_image_network():
    """The toolbox's residual blocks and SRResNet's order of things, on one image."""
    net = shaken(MSFFN(**SMALL, num_frame=1, alignment='none', feedback=False))
    image = torch.rand(2, 3, 9, 11)

    def conv(feat, layer):
        return F.conv2d(feat, layer.weight, layer.bias, padding=1)

    def residual_block(feat, block):
        return feat + conv(conv(feat, block.conv1).relu(), block.conv2)

    shallow = residual_block(conv(image, net.extractor[0]), net.extractor[1][0])
    deep = shallow
    for block in net.blocks:
        deep = residual_block(deep, block)
    feat = F.leaky_relu(F.pixel_shuffle(conv(deep + shallow, net.upconv1), 2), 0.1)
    feat = F.leaky_relu(F.pixel_shuffle(conv(feat, net.upconv2), 2), 0.1)
    upscaled = F.interpolate(image, scale_factor=4, mode='bilinear', align_corners=False)
    expected = conv(feat, net.conv_last) + upscaled
    torch.testing.assert_close(net(image.unsqueeze(1)), expected)
    # alignment, attention and fusion have nothing to act on
    other = MSFFN(**SMALL, num_frame=1, fusion='direct', feedback=False).eval()
    other.load_state_dict(net.state_dict())
    torch.testing.assert_close(other(image.unsqueeze(1)), expected)


@torch.no_grad()
@pytest.mark.parametrize('scale', [2, 3])
def test_one_stage_of_upsampling(scale):
    """Sub-pixel by sub-pixel: channel k * s * s + row * s + column of the convolution is a pixel of channel k."""
    net = shaken(MSFFN(**SMALL, num_frame=1, scale=scale))
    image, feat = torch.rand(1, 3, 4, 5), torch.randn(1, 8, 4, 5)
    convolved, shuffled = net.upconv1(feat), torch.zeros(1, 8, 4 * scale, 5 * scale)
    for row in range(scale):
        for column in range(scale):
            shuffled[:, :, row::scale, column::scale] = convolved[:, row * scale + column :: scale**2]
    enlarged = F.interpolate(image, scale_factor=scale, mode='bilinear', align_corners=False)
    expected = net.conv_last(F.leaky_relu(shuffled, 0.1)) + enlarged
    torch.testing.assert_close(net.reconstruct(feat, image), expected)
    assert net(image.unsqueeze(1)).shape == expected.shape


def test_wrong_scale():
    with pytest.raises(InputError, match=r'scale must be one of \(2, 3, 4\), but is 5'):
        MSFFN(**SMALL, scale=5)


@torch.no_grad()
@pytest.mark.parametrize('num_frame', [1, 3, 5, 7])
def test_windows(num_frame):
    """The centre frame counts the most, and every frame counts."""
    net = shaken(MSFFN(**SMALL, num_frame=num_frame))
    frames = torch.rand(1, num_frame, 3, 7, 5)
    before = net(frames)
    assert before.shape == (1, 3, 28, 20)
    for i in range(num_frame):
        changed = frames.clone()
        changed[:, i] = changed[:, i].flip(-1)
        assert (net(changed) - before).abs().max() > 1e-6, i


@torch.no_grad()
def test_a_batch_is_its_windows_one_by_one():
    net = shaken(MSFFN(**SMALL, num_frame=3))
    frames = torch.rand(3, 3, 3, 8, 9)
    torch.testing.assert_close(net(frames), torch.cat([net(one.unsqueeze(0)) for one in frames]))


@torch.no_grad()
def test_alignment_starts_as_the_identity():
    support, feat = torch.randn(2, 1, 8, 9, 10)
    torch.testing.assert_close(MDDAlignment(8, num_mdrb=1, deform_groups=2)(support, feat), support)
    torch.testing.assert_close(TDAlignment(8, deform_groups=2)(support, feat), support)
    # the toolbox's module ends in a LeakyReLU
    torch.testing.assert_close(PyramidAlignment(8, deform_groups=2)(support, feat), F.leaky_relu(support, 0.1))


def test_supporting_frames_count_from_the_start(shared):
    """On real frames the mask is open at the paper's size, and what lies behind it learns nearly as without it."""
    paths = sorted((shared / 'data' / 'Vid4' / 'BIx4' / 'calendar').iterdir())[:3]
    frames = [torch.from_numpy(cv2.imread(str(path))[40:72, 40:72, ::-1].copy()) for path in paths]
    frames = torch.stack(frames).permute(0, 3, 1, 2)[None] / 255
    gradients = {}
    for attention in (True, False):
        torch.manual_seed(0)
        net = MSFFN(num_frame=3, num_block=2, attention=attention)
        net(frames).sub(frames[:, 1].mean()).abs().mean().backward()
        layers = {'condition': net.condition[0], 'alignment': net.alignment.deform_conv}
        gradients[attention] = {name: layer.weight.grad.abs().mean() for name, layer in layers.items()}
    with torch.no_grad():
        feats = [net.extract_features(frames[:, i]) for i in range(3)]
        mask = similarity_mask(feats[1], net.alignment(feats[0], feats[1]))
    assert mask.mean() > 0.01
    for name, gradient in gradients[True].items():
        assert gradient > gradients[False][name] / 100


@pytest.mark.parametrize(
    'arguments', [{}, {'alignment': 'flow'}, {'alignment': 'tda'}, {'alignment': 'pcd'}, {'fusion': '3d'}]
)
def test_every_parameter_learns(arguments):
    net = shaken(MSFFN(**SMALL, num_frame=3, **arguments)).train()
    net(torch.rand(1, 3, 3, 64, 64)).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in net.parameters())
    silent = {name for name, parameter in net.named_parameters() if not parameter.grad.abs().sum() > 0}
    assert not silent


def test_every_parameter_learns_from_the_start():
    net = MSFFN(**SMALL, num_frame=3)
    net(torch.rand(1, 3, 3, 8, 8)).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in net.parameters())
    silent = {name for name, parameter in net.named_parameters() if not parameter.grad.abs().sum() > 0}
    # what feeds the zero convolution of the offsets learns from the second step on
    assert all(name.startswith(('alignment.bottleneck', 'alignment.mdrbs')) for name in silent), silent


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'num_frame': 4}, 'num_frame must be odd, but is 4'),
        ({'num_frame': 0}, 'num_frame must be odd, but is 0'),
        ({'num_feat': 12}, r'deform_groups \(8\) must divide num_feat \(12\)'),
        ({'alignment': 'optical'}, "alignment must be one of deformable, flow, tda, pcd, none, but is 'optical'"),
        ({'fusion': '2d'}, "fusion must be one of sft, direct, 3d, but is '2d'"),
        ({'alignment': 'flow', 'spynet_path': 'missing.pth'}, 'there is no file missing.pth'),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        build_network({'type': 'MSFFN', **arguments})


def test_wrong_windows():
    with pytest.raises(InputError, match=r'windows of shape \(b, 3, 3, h, w\), but got \(1, 5, 3, 8, 8\)'):
        MSFFN(**SMALL, num_frame=3)(torch.rand(1, 5, 3, 8, 8))
