"""BasicAVSR: the counts, each piece against a slow direct computation, its three forms, and what shifts and repeats."""

from fractions import Fraction

import pytest
import torch
from basicsr.archs import build_network
from basicsr.archs.arch_util import flow_warp
from torch.nn import functional as F

from basicsr_plugins.archs import hyper_upsampling
from basicsr_plugins.archs.basicavsr_arch import BasicAVSR
from basicsr_plugins.archs.frequency_prior import FrequencyPrior, blur, laplacian_pyramid
from basicsr_plugins.archs.hyper_upsampling import HyperUpsampler, KernelNetwork, relative_positions
from basicsr_plugins.archs.motion_compensation import FlowGuidedAttention, SecondOrderMotionCompensation
from basicsr_plugins.errors import InputError
from basicsr_plugins.inference import UpscaleSettings, upscale_frames
from basicsr_plugins.inference.exported import check_exportable
from basicsr_plugins.models.network_spec import spec_of
from basicsr_plugins.scales import whole_place

FORMS = ('bidirectional', 'lookahead', 'unidirectional')


def small(**arguments):
    """A small network whose offsets are not zero, as they are at the start."""
    torch.manual_seed(0)
    blocks = {'num_block': 1, 'num_extract_block': 1, 'num_upsample_block': 1}
    net = BasicAVSR(**{'num_feat': 16, **blocks, **arguments}).eval()
    for module in net.modules():
        if isinstance(module, SecondOrderMotionCompensation):
            torch.nn.init.normal_(module.refinement.conv_offset[-1].weight, std=0.05)
    return net


def clip(t=4, h=8, w=10, seed=1):
    return torch.rand(1, t, 3, h, w, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------------- counts


@pytest.mark.parametrize(
    ('form', 'count'), [('bidirectional', 6_194_283), ('unidirectional', 4_343_803), ('lookahead', 5_020_971)]
)
def test_parameters(form, count):
    net = build_network({'type': 'BasicAVSR', 'propagation': form})
    assert sum(p.numel() for p in net.parameters()) == count


# ---------------------------------------------------------------------------- prior


def test_a_band_and_the_next_level_are_the_level():
    image = torch.rand(2, 3, 45, 22)
    bands, level = laplacian_pyramid(image, 4), image
    for i, band in enumerate(bands[:-1]):
        blurred = blur(level, 2**i)
        torch.testing.assert_close(band + blurred, level, rtol=0, atol=1e-6)
        level = blurred
    assert torch.equal(bands[-1], level)


@pytest.mark.parametrize('distance', [1, 2, 4])
def test_blur_equals_the_sum_written_out(distance):
    image = torch.rand(1, 1, 7, 6, dtype=torch.float64)
    taps = [1, 4, 6, 4, 1]
    expected = torch.zeros(7, 6, dtype=torch.float64)
    for i in range(7):
        for j in range(6):
            for y in range(5):
                for x in range(5):
                    row = min(max(i + (y - 2) * distance, 0), 6)
                    column = min(max(j + (x - 2) * distance, 0), 5)
                    expected[i, j] += taps[y] * taps[x] / 256 * image[0, 0, row, column]
    torch.testing.assert_close(blur(image, distance)[0, 0], expected)


@torch.no_grad()
def test_prior_of_a_frame_of_one_colour():
    frame = torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1).expand(1, 3, 9, 11)
    for band in laplacian_pyramid(frame, 4)[:-1]:
        torch.testing.assert_close(band, torch.zeros_like(band), rtol=0, atol=1e-6)
    prior = FrequencyPrior()
    torch.testing.assert_close(prior(frame), torch.cat((frame, frame), 1))
    prior.weight[3] = torch.tensor([0.0, 1.0, 2.0])  # only the coarsest band has something
    torch.testing.assert_close(prior(frame)[:, 3:], frame * prior.weight[3].view(1, 3, 1, 1), rtol=0, atol=1e-6)


@torch.no_grad()
def test_prior_of_a_part_is_that_part_of_the_prior():
    """The three blurs reach 14 pixels far."""
    prior, frame = FrequencyPrior(), torch.rand(1, 3, 75, 93)
    prior.weight.normal_()
    whole, part = prior(frame), prior(frame[..., 17:, 22:])
    torch.testing.assert_close(part[..., 14:, 14:], whole[..., 31:, 36:], rtol=0, atol=1e-6)


# ---------------------------------------------------------------------------- motion compensation


def attend(attention, feat, neighbour, flow):
    """The attention, pixel by pixel and head by head, as the description has it."""
    c, h, w = feat.shape
    size, heads, half = attention.window_size, attention.num_head, c // 2

    def code(place):
        rates = [2 * torch.pi / size * 0.01 ** (-2 * (k // 2) / half) for k in range(half)]
        angles = [(v * rate, k) for v in place for k, rate in enumerate(rates)]
        return torch.stack([torch.cos(a) if k % 2 else torch.sin(a) for a, k in angles])

    def linear(layer, vector):
        return layer.weight.flatten(1) @ vector + layer.bias

    result = torch.zeros_like(feat)
    for i in range(h):
        for j in range(w):
            place = torch.stack((i + flow[1, i, j], j + flow[0, i, j]))
            base = place.floor()
            query = linear(attention.query, feat[:, i, j] + code(place - base + size // 2 - 1))
            keys, values = [], []
            for y in range(size):
                for x in range(size):
                    row = int(min(max(base[0] + y - (size // 2 - 1), 0), h - 1))
                    column = int(min(max(base[1] + x - (size // 2 - 1), 0), w - 1))
                    seen = neighbour[:, row, column] + code(torch.tensor([y, x], dtype=feat.dtype))
                    keys.append(linear(attention.key, seen))
                    values.append(linear(attention.value, seen))
            for head in range(heads):
                part = slice(head * c // heads, (head + 1) * c // heads)
                match = torch.stack([query[part] @ key[part] for key in keys]) / (c / heads) ** 0.5
                weights = match.softmax(0)
                result[part, i, j] = sum(weight * value[part] for weight, value in zip(weights, values))
    return result


@torch.no_grad()
@pytest.mark.parametrize('window_size', [2, 4])
def test_attention_equals_the_description(window_size):
    torch.manual_seed(0)
    attention = FlowGuidedAttention(8, window_size, 2)
    feat, neighbour = torch.randn(1, 8, 4, 5), torch.randn(1, 8, 4, 5)
    flow = 3 * torch.randn(1, 2, 4, 5)
    expected = attend(attention, feat[0], neighbour[0], flow[0])
    torch.testing.assert_close(attention(feat, neighbour, flow)[0], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_attention_with_equal_keys_is_the_mean():
    """Of the four values that bilinear sampling would read, wherever in between the flow points."""
    torch.manual_seed(0)
    attention = FlowGuidedAttention(8, 2, 4)
    attention.key.weight.zero_()
    attention.value.weight.copy_(torch.eye(8)[..., None, None])
    attention.value.bias.zero_()
    neighbour = torch.rand(1, 8, 6, 7)
    flow = torch.tensor([1.3, 0.6]).view(1, 2, 1, 1).expand(1, 2, 6, 7)
    found = attention(torch.rand(1, 8, 6, 7), neighbour, flow)
    codes = attention(torch.rand(1, 8, 6, 7), torch.zeros_like(neighbour), flow)  # the mean of the positions' codes
    mean = F.avg_pool2d(neighbour, 2, 1)[:, :, :5, 1:]  # of rows i, i + 1 and columns j + 1, j + 2
    torch.testing.assert_close((found - codes)[:, :, :5, :5], mean)


@torch.no_grad()
@pytest.mark.parametrize('flow', [0.0, 500.0, -1e9, float('inf'), float('nan')])
def test_attention_stays_within_the_frame(flow):
    attention = FlowGuidedAttention(8, 2, 4)
    values = attention._window(attention.value, torch.rand(1, 8, 3, 4), torch.full((1, 2, 3, 4), flow).floor().long())
    assert values.isfinite().all()


@torch.no_grad()
def test_refinement_starts_as_half_the_convolution_of_the_warped_neighbour():
    torch.manual_seed(0)
    refinement = SecondOrderMotionCompensation(16).refinement
    refinement.deform_conv.bias.zero_()
    neighbour = torch.randn(1, 16, 9, 10)
    flow = torch.tensor([1.25, -0.5]).view(1, 2, 1, 1).expand(1, 2, 9, 10).contiguous()
    warped = flow_warp(neighbour, flow.permute(0, 2, 3, 1))
    expected = 0.5 * F.conv2d(warped, refinement.deform_conv.weight, padding=1)
    result = refinement(torch.randn(1, 34, 9, 10), neighbour, flow)
    torch.testing.assert_close(result[..., 2:-1, 1:-3], expected[..., 2:-1, 1:-3], rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------- kernels


def test_relative_positions():
    assert relative_positions(Fraction(4)).tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert relative_positions(Fraction(1)).tolist() == [0]
    assert relative_positions(Fraction(5, 2)).tolist() == [-0.6, 0.2, -1.0, -0.2, 0.6]  # -1: on a border of two pixels


@torch.no_grad()
def test_kernels_equal_the_description():
    """Each HR pixel, neighbour and frequency by itself, at x2.5 by x4."""
    torch.manual_seed(0)
    network = KernelNetwork(3)
    tile = network(Fraction(5, 2), Fraction(4), torch.arange(5), torch.arange(4))

    def encode(name, pair):
        products = [v * (2 ** (10 * m / 15) - 1) for v in pair for m in range(16)]
        products = torch.tensor(products)
        return network.encoders[name].linear(torch.cat((products.sin(), products.cos())))

    assert tile.shape == (9, 3, 5, 4)
    described = torch.empty_like(tile)
    for i in range(5):
        for j in range(4):
            near = (2 * i + 1) * 2 // 10
            y, x = (2 * i + 1) * 2 / 5 - (2 * near + 1), (2 * j + 1) / 4 - 1
            for k in range(9):
                codes = (
                    encode('cell', (2 / 2.5, 0.5)),
                    encode('index', (k // 3 - 1, k % 3 - 1)),
                    encode('position', (y, x)),
                )
                hidden = torch.cat(codes)
                for layer in network.layers[:-1]:
                    hidden = torch.sin(30 * layer(hidden))
                described[k, :, i, j] = network.layers[-1](hidden)
    for i in range(5):
        for j in range(4):
            others = [described[k, :, (i - k // 3 + 1) % 5, (j - k % 3 + 1) % 4] for k in range(9) if k != 4]
            described[4, :, i, j] = 1 - sum(others)
    torch.testing.assert_close(tile, described, rtol=0, atol=2e-3)
    part = network(Fraction(5, 2), Fraction(4), torch.tensor([0, 3]), torch.tensor([2]))
    torch.testing.assert_close(part, tile[:, :, [0, 3]][..., [2]])


def upsample_directly(unit, feat, frame, size):
    """The unit as one formula per pixel: grid_sample, the kernel of each pixel, and the sum that folding is."""
    (b, c, h, w), (height, width) = feat.shape, size
    feat = unit.blocks(feat)
    y, x = (((2 * torch.arange(n) + 1) / n - 1) for n in size)
    grid = torch.stack(torch.meshgrid(y, x, indexing='ij')[::-1], -1).expand(b, -1, -1, -1)
    around = F.unfold(feat, 3, padding=1).view(b, 9 * c, h, w)
    samples = F.grid_sample(around, grid, mode='bilinear', align_corners=False)
    scales = Fraction(height, h), Fraction(width, w)
    tile = unit.kernel(*scales, *(torch.arange(scale.numerator) for scale in scales))
    folded = torch.zeros(b, c, height, width)
    for i in range(height):
        for j in range(width):
            for k in range(9):
                row, column = i - (k // 3 - 1), j - (k % 3 - 1)
                if 0 <= row < height and 0 <= column < width:
                    kernel = tile[k, :, row % scales[0].numerator, column % scales[1].numerator]
                    folded[:, :, i, j] += samples[:, k::9, row, column] * kernel
    bilinear = F.interpolate(frame, size=size, mode='bilinear', align_corners=False)
    return unit.conv_last(F.leaky_relu(unit.conv_mix(folded), 0.1)) + bilinear


def made(unit, feat, frame, size):
    return unit(feat, frame, (whole_place(feat.shape[-2:], size),))


def unit_and_inputs(h=5, w=6, num_feat=4):
    torch.manual_seed(0)
    return HyperUpsampler(num_feat, 1), torch.randn(1, num_feat, h, w), torch.rand(1, 3, h, w)


@torch.no_grad()
@pytest.mark.parametrize('size', [(20, 24), (8, 9), (5, 6), (13, 22), (13, 7)])
def test_upsampling_equals_the_direct_sum(size):
    unit, feat, frame = unit_and_inputs()
    expected = upsample_directly(unit, feat, frame, size)
    torch.testing.assert_close(made(unit, feat, frame, size), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize('size', [(20, 24), (13, 22)])
def test_bands_and_kernels_that_are_not_kept_give_the_same(size, monkeypatch):
    unit, feat, frame = unit_and_inputs()
    with torch.enable_grad():
        whole = made(unit, feat, frame, size).detach()  # in one piece, as in training
    for elements in (0, 9 * 4 * size[1] * 6):  # bands of 4 and of 6 rows
        monkeypatch.setattr(hyper_upsampling, 'BAND_ELEMENTS', elements)
        torch.testing.assert_close(made(unit, feat, frame, size), whole)
    assert unit._kept is not None
    monkeypatch.setattr(hyper_upsampling, 'KEPT_ELEMENTS', 0)
    unit._kept = None
    torch.testing.assert_close(made(unit, feat, frame, size), whole)
    assert unit._kept is None


@pytest.mark.parametrize('training', [True, False])
def test_only_kernels_of_what_is_made_are_computed(training, monkeypatch):
    """Of a crop in training, and of a tile of a frame whose kernels are too many to keep."""
    unit, feat, frame = unit_and_inputs()
    monkeypatch.setattr(hyper_upsampling, 'KEPT_ELEMENTS', 0)
    computed, forward = [], unit.kernel.forward
    monkeypatch.setattr(unit.kernel, 'forward', lambda *given: computed.append(given[2:]) or forward(*given))
    rows, columns = whole_place((5, 6), (79, 24))
    with torch.set_grad_enabled(training):
        unit(feat, frame, ((rows._replace(start=40, stop=46), columns),))
    ((needed_rows, needed_columns),) = computed
    assert needed_rows.tolist() == list(range(38, 48))
    assert needed_columns.tolist() == [0, 1, 2, 3]


@torch.no_grad()
def test_kept_kernels_are_used_until_scale_or_weights_change(monkeypatch):
    """Bit for bit as when they are computed anew; frames of other sizes share them."""
    unit, feat, frame = unit_and_inputs()
    computed = []
    forward = unit.kernel.forward
    monkeypatch.setattr(unit.kernel, 'forward', lambda *scales: computed.append(scales[:2]) or forward(*scales))
    fresh = made(unit, feat, frame, (20, 24))
    assert torch.equal(made(unit, feat, frame, (20, 24)), fresh)
    made(unit, torch.randn(1, 4, 7, 6), torch.rand(1, 3, 7, 6), (28, 24))
    assert computed == [(4, 4)]
    tile = unit._kept[2]
    made(unit, torch.randn(1, 4, 7, 9), torch.rand(1, 3, 7, 9), (28, 36))
    assert torch.equal(unit._kept[2], tile)
    made(unit, feat, frame, (15, 24))
    assert computed[1:] == [(3, 4)]
    unit.kernel.layers[1].weight.data.mul_(0.5)  # as an average of weights is kept: no version counts it
    changed = made(unit, feat, frame, (20, 24))
    assert len(computed) == 3
    unit._kept = None
    assert torch.equal(made(unit, feat, frame, (20, 24)), changed)
    assert not torch.allclose(changed, fresh)


def test_gradients_reach_every_parameter():
    """With kernels that were kept before."""
    for form in FORMS:
        net = small(propagation=form)
        with torch.no_grad():
            net(clip(1), size=(17, 23))
        net.train()(clip(3), size=(17, 23)).square().mean().backward()
        assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


# ---------------------------------------------------------------------------- the network


@torch.no_grad()
@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('size', [(32, 40), (20, 35), (9, 23)])
def test_without_its_last_convolution_it_is_bilinear(form, size):
    net = small(propagation=form)
    net.upsampler.conv_last.weight.zero_()
    net.upsampler.conv_last.bias.zero_()
    x = clip(2)
    expected = F.interpolate(x[0], size=size, mode='bilinear', align_corners=False)
    torch.testing.assert_close(net(x, size=size)[0], expected)


@torch.no_grad()
@pytest.mark.parametrize(('h', 'w', 't'), [(1, 1, 1), (3, 2, 2), (5, 7, 1)])
@pytest.mark.parametrize('form', FORMS)
def test_small_frames_and_single_ones(form, h, w, t):
    result = small(propagation=form, scale=(2.5, 3))(clip(t, h, w))
    assert result.shape == (1, t, 3, int(2.5 * h + 0.5), 3 * w)
    assert result.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize(('form', 'ahead'), [('unidirectional', 0), ('lookahead', 1), ('lookahead', 2)])
def test_sees_no_further_ahead_than_it_says(form, ahead):
    """And all frames before."""
    net, x = small(propagation=form, num_lookahead=max(ahead, 1)), clip(5)
    before, changed = net(x), x.clone()
    changed[:, 3:] = clip(2, seed=2)
    after = net(changed)
    assert net.ahead == ahead
    assert torch.equal(before[:, : 3 - ahead], after[:, : 3 - ahead])
    assert not torch.equal(before[:, 3 - ahead], after[:, 3 - ahead])
    changed = x.clone()
    changed[:, 0] = clip(1, seed=2)[:, 0]
    assert not torch.equal(net(changed)[:, 4], before[:, 4])


@torch.no_grad()
def test_bidirectional_sees_all():
    net, x = small(), clip(3)
    changed = x.clone()
    changed[:, 2] = clip(1, seed=2)[:, 0]
    assert not torch.equal(net(changed)[:, 0], net(x)[:, 0])


@torch.no_grad()
def test_directions_swapped_and_the_clip_reversed():
    net, x = small(), clip(3)
    expected = net(x).flip(1)
    net.backward_propagation, net.forward_propagation = net.forward_propagation, net.backward_propagation
    first = net.fusion[0]
    first.weight.copy_(first.weight.roll(16, dims=1))
    torch.testing.assert_close(net(x.flip(1)), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_lookahead_equals_the_description():
    """Three frames, written out: at each pixel the next states, aligned, weighted by how they match."""
    net, x = small(propagation='lookahead', scale=2), clip(3)
    frames = x.unbind(1)
    feats = [net.extract(frame) for frame in frames]
    states = [net.forward_propagation(feats[0], None, None)]
    for i in (1, 2):
        states.append(net.forward_propagation(feats[i], states[-1], net.spynet(frames[i], frames[i - 1])))
    for i in range(3):
        aligned = [
            net.lookahead.compensation(states[i], states[j], net.spynet(frames[i], frames[j])) for j in range(i + 1, 3)
        ]
        query, ahead = net.lookahead.query(states[i]), torch.zeros_like(states[i])
        total = sum(torch.exp((query * net.lookahead.key(one)).sum(1, keepdim=True) / 4) for one in aligned)
        for one in aligned:
            ahead += torch.exp((query * net.lookahead.key(one)).sum(1, keepdim=True) / 4) / total * one
        fused = net.fusion(torch.cat((states[i], ahead), 1))
        expected = made(net.upsampler, fused, frames[i], (16, 20))
        torch.testing.assert_close(net(x)[:, i], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize('form', FORMS)
def test_the_engine_gives_what_one_pass_gives(form):
    """Bit for bit, and reads no further than it sees."""
    net, x, read = small(propagation=form, scale=(1.5, 2.5)), clip(5), []

    def source():
        for i, frame in enumerate(x[0]):
            read.append(i)
            yield frame

    expected = net(x)[0]
    exact = torch.stack(list(upscale_frames(net, x[0], UpscaleSettings(segment=2, scene_cuts=False))))
    assert torch.equal(exact, expected)
    if form != 'bidirectional':
        settings = UpscaleSettings(mode='stream', segment=1, lookahead=0, scene_cuts=False)
        for i, hr in enumerate(upscale_frames(net, source(), settings)):
            assert torch.equal(hr, expected[i])
            assert len(read) == min(i + 1 + net.ahead, 5)
    skipped = torch.stack(list(upscale_frames(net, x[0], UpscaleSettings(segment=2, scene_cuts=False), skip=3)))
    assert torch.equal(skipped, expected[3:])


def test_lookahead_is_not_exported():
    with pytest.raises(InputError, match='takes states of frames ahead, so it cannot be exported'):
        check_exportable(spec_of(small(propagation='lookahead')))


def still(net):
    """The network with a flow that is the same everywhere: SpyNet's depends on where in the frame a pixel lies."""
    net.flow = lambda frame, other: torch.tensor([0.7, -1.2]).view(1, 2, 1, 1).expand(1, 2, *frame.shape[-2:])
    return net


@torch.no_grad()
@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize(('scale', 'rows', 'columns'), [(3, 1, 0), (3, 0, 1), ((2, 4), 5, 3)])
def test_a_shifted_clip_comes_out_shifted(form, scale, rows, columns):
    """By every whole number of LR pixels, away from the borders."""
    net, wide = still(small(propagation=form, scale=scale)), clip(3, 96, 96)
    alpha, beta = net.scale if isinstance(scale, tuple) else (scale, scale)
    first, second = net(wide[..., :88, :88]), net(wide[..., rows : rows + 88, columns : columns + 88])
    inside = slice(40 * alpha, 48 * alpha), slice(40 * beta, 48 * beta)
    after = slice((40 + rows) * alpha, (48 + rows) * alpha), slice((40 + columns) * beta, (48 + columns) * beta)
    torch.testing.assert_close(second[(..., *inside)], first[(..., *after)], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(second[(..., *inside)], first[(..., *inside)], atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('scale', [4, 2.7, (1.5, 3)])
def test_a_clip_of_one_colour_comes_out_of_one_colour(form, scale):
    """Away from the borders."""
    net = still(small(propagation=form, scale=scale))
    result = net(torch.tensor([0.3, 0.5, 0.9]).view(1, 1, 3, 1, 1).expand(1, 3, 3, 80, 80))
    height, width = result.shape[-2:]
    inside = result[0, ..., height * 2 // 5 : height * 3 // 5, width * 2 // 5 : width * 3 // 5].flatten(2)
    assert (inside.amax(2) - inside.amin(2)).max() < 2e-6
    assert not torch.allclose(inside[..., 0], torch.tensor([0.3, 0.5, 0.9]), atol=1e-3)  # a network's, not bilinear's


@torch.no_grad()
def test_upsampling_is_shifted_by_every_whole_pixel():
    unit, feat, frame = unit_and_inputs(14, 15)
    first = made(unit, feat[..., :13, :13], frame[..., :13, :13], (39, 52))
    second = made(unit, feat[..., 1:, 2:], frame[..., 1:, 2:], (39, 52))
    expected = first[..., 3:, 8:]
    torch.testing.assert_close(second[..., 15:-18, 20:-28], expected[..., 15:-15, 20:-20], rtol=1e-4, atol=1e-5)
