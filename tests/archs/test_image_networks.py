"""The single-image networks: the published counts, and what is special in each against a direct reading of it."""

import math

import pytest
import torch
from basicsr.archs import build_network
from basicsr.utils.matlab_functions import imresize
from torch import nn
from torch.nn import functional as F

from basicsr_plugins.archs.image_networks import AnyScaleNetwork, he_init
from basicsr_plugins.errors import InputError
from basicsr_plugins.models.network_spec import fit_scale, spec_of
from basicsr_plugins.models.restoration import luma, restore_frames
from basicsr_plugins.scales import whole_place

COUNTS = [  # published where a paper or its code says them; `archs/*_arch.py` say which
    ('SRCNN', {}, 57_281),
    ('SRCNN', {'kernel_sizes': [9, 1, 5]}, 8_129),
    ('SRCNN', {'kernel_sizes': [9, 1, 5], 'num_in_ch': 3}, 20_099),
    ('FSRCNN', {}, 12_637 + 172),
    ('ESPCN', {}, 24_752),
    ('ESPCN', {'num_in_ch': 3}, 37_200),
    ('VDSR', {}, 664_704 + 1_217),
    ('DRCN', {}, 1_775_105 + 16),
    ('DRRN', {}, 297_216),
    ('LapSRN', {}, 871_588),
    ('SRDenseNet', {}, 2_659_585),
    ('REDNet', {}, 1_035_201),
    ('RDN', {}, 22_271_107),
    ('RDN', {'scale': 2}, 22_123_395),
    ('MetaSR', {}, 22_419_072),
    ('LIIF', {}, 1_567_299),
    ('LIIF', {'encoder': 'rdn'}, 22_320_835),
]
ENLARGED = {  # networks of enlarged luma, small; those with a residual add it to what they get
    'SRCNN': {'num_feat': [4, 3]},
    'VDSR': {'num_feat': 4, 'num_conv': 4},
    'DRCN': {'num_feat': 4, 'num_recursion': 3},
    'DRRN': {'num_feat': 4, 'num_unit': 3},
    'REDNet': {'num_feat': 4, 'num_conv': 5},
}
RDN = {'num_feat': 4, 'num_block': 2, 'num_conv': 2, 'num_growth': 3}
LIIF = {'num_feat': 4, 'num_block': 1, 'num_hidden': 8, 'num_layer': 2}


def build(network, **arguments):
    torch.manual_seed(0)
    return build_network({'type': network, **arguments}).eval()


@pytest.mark.parametrize(('network', 'arguments', 'count'), COUNTS)
def test_parameters(network, arguments, count):
    with torch.device('meta'):
        net = build_network({'type': network, **arguments})
    assert sum(parameter.numel() for parameter in net.parameters()) == count


@pytest.mark.parametrize('network', ENLARGED)
@torch.no_grad()
def test_networks_of_enlarged_luma(network):
    """Any factor; those with a residual, which is zero here, give the bicubic image, colour and all."""
    net, frame = build(network, **ENLARGED[network]), torch.rand(3, 9, 8).mul(0.6).add(0.2)
    spec = spec_of(net)
    assert (spec.input_type, spec.lq, spec.colour) == ('image', 'bicubic', 'y')
    for scale in (2, 3, 4):
        fit_scale(net, scale)
        enlarged = imresize(frame, scale)
        (restored,) = restore_frames(net, frame[None])
        torch.testing.assert_close(luma(restored), net(luma(enlarged)[None])[0], atol=1e-5, rtol=0)
        if network != 'SRCNN':
            last = net.upconvs[-1] if network == 'REDNet' else net.conv_last
            saved = {name: value.clone() for name, value in last.state_dict().items()}
            for parameter in last.parameters():
                parameter.zero_()
            (restored,) = restore_frames(net, frame[None])
            torch.testing.assert_close(restored, enlarged, atol=1e-6, rtol=0)
            last.load_state_dict(saved)


def test_wrong_arguments():
    for network, arguments, message in (
        ('ESPCN', {'scale': 5}, r'ESPCN: scale must be one of \(2, 3, 4\), but is 5'),
        ('VDSR', {'num_in_ch': 2}, r'VDSR: num_in_ch must be 1 \(luma\) or 3 \(RGB\), but is 2'),
        ('SRCNN', {'kernel_sizes': [9, 4, 5]}, r'kernel_sizes three odd ones, but are .* \[9, 4, 5\]'),
        ('LIIF', {'encoder': 'vdsr'}, r"LIIF: encoder must be one of edsr, rdn, but is 'vdsr'"),
        (
            'LIIF',
            {'scale': 0.5},
            'LIIF: scale is 0.5, which would make HR frames smaller than LR ones, but must be from 1 to 16',
        ),
    ):
        with pytest.raises(InputError, match=message):
            build_network({'type': network, **arguments})
    with pytest.raises(InputError, match=r'LIIF makes frames of 8x6 up to 16 times as large, not 7x12 of them'):
        build('LIIF', **LIIF)(torch.rand(1, 3, 6, 8), size=(12, 7))


def test_he_init_keeps_the_size_of_values():
    """Through convolutions and transposed ones, strided too, in the mean of their squares."""
    torch.manual_seed(0)
    for layer in (nn.Conv2d(64, 64, 3, 1, 1), nn.ConvTranspose2d(64, 64, 3, 1, 1), nn.ConvTranspose2d(64, 64, 4, 2, 1)):
        he_init(layer)
        x = torch.randn(2, 64, 16, 16)
        assert float(layer(F.relu(x))[..., 4:-4, 4:-4].detach().square().mean()) == pytest.approx(1, rel=0.2)


# ---------------------------------------------------------------- the classics


@torch.no_grad()
def test_srcnn_without_any_change():
    net = build('SRCNN')
    for conv in (net.patches, net.mapping, net.conv_last):
        nn.init.dirac_(conv.weight)
    x = torch.rand(1, 1, 12, 13)
    torch.testing.assert_close(net(x), x)


@torch.no_grad()
@pytest.mark.parametrize('scale', [2, 3, 4])
def test_fsrcnn_enlarges_around_pixels(scale):
    """A transposed convolution of one centre tap puts each feature at HR pixel s * i; other factors share the rest."""
    net = build('FSRCNN', scale=scale)
    nn.init.zeros_(net.upconv.weight)
    net.upconv.weight[0, 0, 4, 4] = 1
    x = torch.rand(1, 1, 5, 6)
    y = net(x)
    assert y.shape == (1, 1, 5 * scale, 6 * scale)
    feat = net.expanding(net.mapping(net.shrinking(net.extraction(x))))[:, :1]
    assert torch.equal(y[..., ::scale, ::scale], feat)
    assert y.count_nonzero() == feat.count_nonzero()
    other = build('FSRCNN', scale=5 - scale if scale < 4 else 2)
    assert [name for name, value in other.state_dict().items() if net.state_dict()[name].shape != value.shape] == []
    other.load_state_dict(net.state_dict())


@torch.no_grad()
@pytest.mark.parametrize('num_in_ch', [1, 3])
def test_espcn_by_blocks_of_pixels(num_in_ch):
    net = build('ESPCN', num_in_ch=num_in_ch, scale=3)
    x = torch.rand(1, num_in_ch, 4, 5)
    blocks = net.conv_last(torch.tanh(net.conv_mapping(torch.tanh(net.conv_first(x)))))
    y = net(x)
    for i, j in ((0, 0), (5, 7), (11, 14)):
        for colour in range(num_in_ch):
            assert y[0, colour, i, j] == blocks[0, 9 * colour + 3 * (i % 3) + j % 3, i // 3, j // 3]


def test_vdsr_is_twenty_layers_deep():
    """Nineteen ReLUs, and a pixel sees those up to twenty away."""
    net = build('VDSR')
    assert sum(isinstance(module, nn.ReLU) for module in net.modules()) == 19
    x = torch.rand(1, 1, 47, 47, requires_grad=True)
    net(x)[0, 0, 23, 23].backward()
    rows = x.grad[0, 0].abs().sum(1).nonzero().flatten()
    assert (int(rows[0]), int(rows[-1])) == (3, 43)


def test_drcn_recurs():
    """All recursions start alike, since the convolution starts as the identity; the mean and the losses, by a loop."""
    net = build('DRCN', num_feat=4, num_recursion=3).train()
    x, gt = torch.rand(2, 1, 6, 7), torch.rand(2, 1, 6, 7)
    mean, outputs = net(x)
    assert torch.equal(outputs, outputs[:, :1].expand_as(outputs))
    nn.init.normal_(net.recursion.weight)
    net.weights.data = torch.tensor([1.0, 2.0, 5.0])
    mean, outputs = net(x)
    feat = net.embedding(x)
    expected = []
    for _ in range(3):
        feat = F.relu(net.recursion(feat))
        expected.append(x + net.conv_last(F.relu(net.reconstruction(feat))))
    torch.testing.assert_close(mean, (expected[0] + 2 * expected[1] + 5 * expected[2]) / 8)
    loss = net.auxiliary_losses((mean, outputs), x, gt, F.mse_loss)['recursions']
    torch.testing.assert_close(loss, sum(F.mse_loss(one, gt) for one in expected) / 3)
    torch.testing.assert_close(net.eval()(x), mean)


def test_drrn_shares_its_units():
    """The units written out with weights of their own: the same output, and the shared gradient is their sum."""
    net = build('DRRN', num_feat=4, num_unit=3)
    units = [[net.conv1.weight.detach().clone().requires_grad_() for _ in range(3)]]
    units.append([net.conv2.weight.detach().clone().requires_grad_() for _ in range(3)])
    x = torch.rand(1, 1, 7, 8)
    first = F.conv2d(x, net.conv_first.weight, padding=1)
    feat = first
    for weight1, weight2 in zip(*units):
        feat = F.conv2d(F.relu(feat), weight1, padding=1)
        feat = F.conv2d(F.relu(feat), weight2, padding=1) + first
    expected = x + F.conv2d(F.relu(feat), net.conv_last.weight, padding=1)
    output = net(x)
    torch.testing.assert_close(output, expected)
    expected.square().sum().backward()
    shared = {weight: weight.grad.clone() for weight in (net.conv_last.weight, net.conv_first.weight)}
    net.zero_grad()
    output.square().sum().backward()
    for weight, copies in zip((net.conv1.weight, net.conv2.weight), units):
        torch.testing.assert_close(weight.grad, sum(copy.grad for copy in copies))
    for weight, gradient in shared.items():
        torch.testing.assert_close(weight.grad, gradient)


def test_lapsrn_pyramid():
    """Without residuals each level is bilinear; with them the levels add up, and each has its loss."""
    net = build('LapSRN', num_feat=4, num_conv=1, num_in_ch=3).train()
    x, gt = torch.rand(2, 3, 8, 9), torch.rand(2, 3, 32, 36)
    first, second = net.levels
    feat1, image1 = first(F.leaky_relu(net.conv_first(x), 0.2), x)
    _, image2 = second(feat1, image1)
    output = net(x)
    assert [one.shape[-2:] for one in output] == [(32, 36), (16, 18)]
    torch.testing.assert_close(output, (image2, image1))
    half = torch.stack([imresize(image, 0.5) for image in gt])
    inner = (..., slice(3, -3), slice(3, -3))
    loss = net.auxiliary_losses(
        [one[inner] for one in output], x, gt, lambda image, gt: (image - gt[inner]).abs().mean()
    )
    torch.testing.assert_close(loss['levels'], (image1[inner] - half[inner]).abs().mean(), atol=1e-5, rtol=0)
    for level in net.levels:
        nn.init.zeros_(level.conv_residual.weight)
    bilinear = F.interpolate(x, scale_factor=2, mode='bilinear', align_corners=False)
    torch.testing.assert_close(net(x)[1][..., 1:-1, 1:-1], bilinear[..., 1:-1, 1:-1])


@torch.no_grad()
def test_srdensenet_connections():
    """Written out: a block's first layer sees all before the block, its others the block; all of it is reduced."""
    net = build('SRDenseNet', num_growth=2, num_conv=3, num_block=3, num_feat=5)
    x = torch.rand(1, 1, 5, 6)
    seen = [F.relu(net.conv_first(x))]
    for block in net.blocks:
        own = [F.relu(block.convs[0](torch.cat(seen, 1)))]
        own.append(F.relu(block.convs[1](own[0])))
        own.append(F.relu(block.convs[2](torch.cat(own, 1))))
        seen += [torch.cat(own, 1)]
    feat = F.relu(net.bottleneck(torch.cat(seen, 1)))
    for upconv in net.upconvs:
        feat = F.relu(upconv(feat))
    torch.testing.assert_close(net(x), net.conv_last(feat))
    assert net(x).shape == (1, 1, 20, 24)


@torch.no_grad()
def test_rednet_mirrors():
    """Of five pairs written out: the second and the fourth convolution reach their mirrors, and the input the end."""
    net = build('REDNet', num_feat=4, num_conv=5)
    x = torch.rand(1, 1, 6, 7)
    convs, upconvs = net.convs, net.upconvs
    c1 = F.relu(convs[0](x))
    c2 = F.relu(convs[1](c1))
    c4 = F.relu(convs[3](F.relu(convs[2](c2))))
    d1 = F.relu(upconvs[0](F.relu(convs[4](c4))) + c4)
    d3 = F.relu(upconvs[2](F.relu(upconvs[1](d1))) + c2)
    torch.testing.assert_close(net(x), upconvs[4](F.relu(upconvs[3](d3))) + x)


@torch.no_grad()
def test_rdn_is_dense():
    """Its features, written out."""
    net = build('RDN', **RDN)
    features, x = net.features, torch.rand(1, 3, 5, 6)
    shallow = features.conv_first(x)
    feat, fused = features.conv_second(shallow), []
    for block in features.blocks:
        one = F.relu(block.convs[0](feat))
        two = F.relu(block.convs[1](torch.cat((feat, one), 1)))
        feat = feat + block.fusion(torch.cat((feat, one, two), 1))
        fused.append(feat)
    deep = shallow + features.fusion[1](features.fusion[0](torch.cat(fused, 1)))
    expected = F.pixel_shuffle(net.upsample[2](F.pixel_shuffle(net.upsample[0](deep), 2)), 2)
    torch.testing.assert_close(net(x), net.conv_last(expected))


# ---------------------------------------------------------------- SESR


@pytest.mark.parametrize(
    ('arguments', 'x4', 'x2'),
    [
        ({'num_block': 3}, 13_712, 8_912),
        ({}, 18_320, 13_520),
        ({'num_block': 7}, 22_928, 18_128),
        ({'num_block': 11}, 32_144, 27_344),
        ({'num_block': 11, 'num_feat': 32}, 114_976, 105_376),
    ],
)
def test_sesr_collapsed_weights(arguments, x4, x2):
    for scale, count in ((4, x4), (2, x2)):
        net = build('SESR', collapsed=True, scale=scale, **arguments)
        assert sum(parameter.numel() for parameter in net.parameters() if parameter.dim() == 4) == count


@pytest.mark.parametrize(('num_in_ch', 'scale'), [(1, 4), (3, 2)])
def test_sesr_collapsed_is_the_trained_one(num_in_ch, scale):
    """The pairs written out as two convolutions and the identity: the same output and gradients; and collapsed."""
    net = build('SESR', num_in_ch=num_in_ch, num_feat=6, num_block=2, num_expanded=20, scale=scale).double()
    x = torch.rand(2, num_in_ch, 7, 8, dtype=torch.float64)

    def pair(layer, feat):
        return layer.project(layer.expand(feat)) + (feat if layer.residual else 0)

    first = feat = pair(net.conv_first, x - 0.5)
    for layer, activation in zip(net.body, net.activations):
        feat = activation(pair(layer, feat))
    blocks = pair(net.conv_last, first + feat)
    enlarged = blocks
    for _ in range(int(math.log2(scale))):
        enlarged = F.pixel_shuffle(enlarged, 2)
    expected = enlarged + x.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    output = net(x)
    torch.testing.assert_close(output, expected)
    gradients = torch.autograd.grad(expected.square().sum(), list(net.parameters()))
    torch.testing.assert_close(torch.autograd.grad(output.square().sum(), list(net.parameters())), gradients)
    small = net.float().collapse()
    torch.testing.assert_close(small(x.float()), expected.float(), atol=1e-5, rtol=0)
    assert {name.split('.')[-1] for name in small.state_dict()} == {'weight'}


# ---------------------------------------------------------------- any scale


@torch.no_grad()
@pytest.mark.parametrize('network', ['LIIF', 'MetaSR'])
def test_any_size(network):
    """By scale, by two of them, by size; small frames too."""
    arguments = LIIF if network == 'LIIF' else RDN
    net = build(network, **arguments, scale=2.5)
    assert isinstance(net, AnyScaleNetwork)
    assert (spec_of(net).input_type, spec_of(net).scale) == ('image', 2.5)
    x = torch.rand(2, 3, 5, 7)
    assert net(x).shape == (2, 3, 13, 18)  # 12.5 and 17.5, halves up
    assert net(x, size=(9, 20)).shape == (2, 3, 9, 20)
    assert torch.equal(net(x, size=(13, 18)), net(x))
    assert build(network, **arguments, scale=[2, 1.5])(x).shape == (2, 3, 10, 11)
    assert build(network, **arguments)(x[..., :1, :1]).shape == (2, 3, 4, 4)


@torch.no_grad()
@pytest.mark.parametrize('size', [(24, 28), (21, 11), (9, 11)])
@pytest.mark.parametrize('network', ['LIIF', 'MetaSR'])
def test_any_scale_of_a_part(network, size):
    """A crop is that of the whole; several of one size in a batch, of other sizes of the whole too."""
    net = build(network, **(LIIF if network == 'LIIF' else RDN))
    x = torch.rand(2, 3, 6, 7)
    rows, columns = whole_place((6, 7), size)
    for i, j in ((0, 0), (2, 5), (size[0] - 4, size[1] - 5)):
        part = rows._replace(start=i, stop=i + 4), columns._replace(start=j, stop=j + 5)
        expected = net(x, size=size)[..., i : i + 4, j : j + 5]
        torch.testing.assert_close(net(x, places=(part,)), expected, atol=1e-6, rtol=1e-5)
        other = tuple(span._replace(start=1, stop=k) for span, k in zip(whole_place((6, 7), (13, 12)), (5, 6)))
        both = torch.cat((expected[:1], net(x[1:], size=(13, 12))[..., 1:5, 1:6]))
        torch.testing.assert_close(net(x, places=(part, other)), both, atol=1e-6, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize('size', [(12, 20), (8, 17), (5, 7)])
def test_liif_by_the_pixel(size):
    """Each HR pixel by itself, as the paper describes it, features looked up by PyTorch's nearest sampling."""
    net = build('LIIF', **LIIF)
    (h, w), (height, width) = (5, 7), size
    x = torch.rand(1, 3, h, w)
    unfolded = F.unfold(net.encoder(2 * x - 1), 3, padding=1).reshape(1, -1, h, w)
    ys, xs = ((2 * torch.arange(n, dtype=torch.float64) + 1) / n - 1 for n in (h, w))
    centres = torch.stack(torch.meshgrid(ys, xs, indexing='ij'))[None]
    expected = torch.empty(1, 3, height, width)
    for row in range(height):
        for column in range(width):
            pixel = torch.tensor([(2 * row + 1) / height - 1, (2 * column + 1) / width - 1], dtype=torch.float64)
            colours, areas = [], []
            for side in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
                aside = pixel + torch.tensor([side[0] / h, side[1] / w], dtype=torch.float64) + 1e-6
                grid = aside.clamp(-1 + 1e-6, 1 - 1e-6).flip(0)[None, None, None]
                feat, centre = (
                    F.grid_sample(one.double(), grid, mode='nearest', align_corners=False)[0, :, 0, 0]
                    for one in (unfolded, centres)
                )
                place = (pixel - centre) * torch.tensor([h, w])
                cell = torch.tensor([2 * h / height, 2 * w / width])
                values = torch.cat((feat, place, cell)).float()
                for layer in net.hidden:
                    values = F.relu(layer(values))
                colours.append(net.last(values))
                areas.append(place.prod().abs() + 1e-9)
            mean = sum(colour * area for colour, area in zip(colours, reversed(areas))) / sum(areas)
            expected[0, :, row, column] = mean / 2 + 0.5
    torch.testing.assert_close(net(x, size=size), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_liif_of_one_colour():
    """At x1 away from the borders; the weights of the four features sum to one."""
    net = build('LIIF', **LIIF)
    y = net(torch.full((1, 3, 16, 15), 0.3), size=(16, 15))[..., 6:-6, 6:-6]
    torch.testing.assert_close(y, y[..., :1, :1].expand_as(y))
    nn.init.zeros_(net.last.weight)
    net.last.bias.copy_(torch.tensor([0.1, -0.2, 0.4]))
    torch.testing.assert_close(net(torch.rand(1, 3, 4, 5))[0, :, 3, 7], torch.tensor([0.55, 0.4, 0.7]))


@torch.no_grad()
@pytest.mark.parametrize('size', [(20, 28), (8, 11), (5, 7)])
def test_metasr_by_the_pixel(size):
    """Each HR pixel by itself: a patch of features times the kernel that its place makes."""
    net = build('MetaSR', **RDN)
    (h, w), (height, width) = (5, 7), size
    x = torch.rand(1, 3, h, w)
    feat = F.pad(net.features(x), (1, 1, 1, 1))
    expected = torch.empty(1, 3, height, width)
    for row in range(height):
        for column in range(width):
            y, z = row * h / height, column * w / width
            i, j = row * h // height, column * w // width
            place = torch.tensor([y - i, z - j, math.sqrt(h / height * w / width)])
            kernel = net.kernels(place).reshape(-1, 3)
            expected[0, :, row, column] = feat[0, :, i : i + 3, j : j + 3].reshape(-1) @ kernel
    torch.testing.assert_close(net(x, size=size), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_metasr_kernels_of_a_whole_factor():
    """There are r * r of them, whatever the size; so the output is a convolution, shuffled."""
    net = build('MetaSR', **RDN)
    seen = []
    net.kernels.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    x = torch.rand(1, 3, 6, 5)
    y = net(x, size=(18, 15))
    places = torch.cat(seen)
    assert places.unique(dim=0).shape == places.shape == (9, 3)
    torch.testing.assert_close(places[:, 2], torch.full((9,), 1 / 3))
    kernels = net.kernels(places).reshape(9, -1, 3, 3, 3).permute(4, 0, 1, 2, 3).flatten(0, 1)  # colour, place, ...
    torch.testing.assert_close(y, F.pixel_shuffle(F.conv2d(net.features(x), kernels, padding=1), 3), atol=1e-5, rtol=0)
