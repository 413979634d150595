"""Zooming Slow-Mo: its sizes, its recurrence against one written out, its symmetry, and its steps in the engine."""

import copy

import pytest
import torch
from basicsr.archs import build_network
from basicsr.archs.edvr_arch import PCDAlignment
from torch.nn import functional as F

from basicsr_plugins.archs.msffn_alignment import start_as_identity
from basicsr_plugins.archs.zooming_slow_mo_arch import DirectedAlignment, ZoomingSlowMo
from basicsr_plugins.errors import InputError
from basicsr_plugins.inference import UpscaleSettings, upscale_frames
from basicsr_plugins.models.network_spec import spec_of
from basicsr_plugins.models.restoration import restore_frames


def random_weights(net):
    """Offsets and features of a useful size; at the start offsets are zero."""
    torch.manual_seed(0)
    for name, parameter in net.named_parameters():
        if parameter.dim() == 4:
            std = 0.05 if 'conv_offset.' in name else parameter[0].numel() ** -0.5
            torch.nn.init.normal_(parameter, std=std)
        else:
            torch.nn.init.normal_(parameter, std=0.1)
    return net


def small():
    return random_weights(ZoomingSlowMo(num_feat=8, num_extract_block=1, num_block=1, deform_groups=2)).eval()


def film(t=4, h=8, w=12):
    return torch.rand(t, 3, h, w, generator=torch.Generator().manual_seed(1))


def upscale(net, clip, skip=0, **settings):
    settings = {'scene_cuts': False, **settings}
    return torch.stack(list(upscale_frames(net, clip, UpscaleSettings(**settings), skip=skip)))


def test_published_sizes():
    with torch.device('meta'):
        net = build_network({'type': 'ZoomingSlowMo'})

    def count(part):
        return sum(p.numel() for p in part.parameters())

    assert count(net) == 11_102_771
    assert count(net.lstm) == 5_055_136
    assert count(net.interpolation.directions) == 2_224_016
    spec = spec_of(net)
    assert (spec.scale, spec.time_scale, spec.size_multiple, spec.steps) == (4, 2, 4, net)
    assert [spec.num_output(t) for t in (1, 2, 3, 4)] == [1, 3, 5, 7]


def test_groups_must_divide_channels():
    with pytest.raises(InputError, match=r'deform_groups \(5\) must divide num_feat \(8\)'):
        ZoomingSlowMo(num_feat=8, deform_groups=5)


@torch.no_grad()
def test_alignment_is_edvrs_without_its_cascade():
    """The toolbox's PCD with the same weights, its cascade the identity and a LeakyReLU behind."""
    ours, theirs = random_weights(DirectedAlignment(8, 2)), PCDAlignment(8, 2)
    missing = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert all(name.startswith('cas_') for name in missing.missing_keys)
    assert not missing.unexpected_keys
    torch.nn.init.zeros_(theirs.cas_dcnpack.conv_offset.weight)
    torch.nn.init.zeros_(theirs.cas_dcnpack.conv_offset.bias)
    start_as_identity(theirs.cas_dcnpack)
    own, other = ({f'l{n + 1}': torch.rand(2, 8, 16 >> n, 24 >> n) for n in range(3)} for _ in range(2))
    expected = theirs(list(own.values()), list(other.values()))
    torch.testing.assert_close(F.leaky_relu(ours(own, other), 0.1), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize('t', [1, 2, 4])
def test_steps_equal_the_passes_written_out(t):
    """All features in a row, the cell over them from either end, both hidden states fused."""
    net, clip = small(), film(t)[None]
    feats = [net.extract(clip[:, i]) for i in range(t)]
    row = []
    for i, feat in enumerate(feats):
        row += [feat] if i == 0 else [net.interpolation(feats[i - 1], feat), feat]

    def go_over(row):
        hidden = cell = torch.zeros_like(row[0])
        shown = []
        for feat in row:
            gates = net.lstm.gates(torch.cat((feat, net.lstm.align_hidden(feat, hidden)), dim=1))
            i, f, o = (torch.sigmoid(gate) for gate in gates[:, :24].chunk(3, dim=1))
            cell = f * net.lstm.align_cell(feat, cell) + i * torch.tanh(gates[:, 24:])
            hidden = o * torch.tanh(cell)
            shown.append(hidden)
        return shown

    expected = [net._reconstruct(*pair) for pair in zip(go_over(row), go_over(row[::-1])[::-1])]
    output = net(clip)
    assert output.shape == (1, 2 * t - 1, 3, 32, 48)
    torch.testing.assert_close(output, torch.stack(expected, dim=1), rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_reversed_clip_gives_reversed_frames():
    """Where the interpolation's directions and both halves of what fuses two directions change places."""
    net, clip = small(), film()[None]
    other = copy.deepcopy(net)
    directions = other.interpolation.directions
    other.interpolation.directions = torch.nn.ModuleList([directions[1], directions[0]])
    for fusion in (other.interpolation.fusion, other.fusion):
        fusion.weight.copy_(torch.cat(fusion.weight.chunk(2, dim=1)[::-1], dim=1))
    torch.testing.assert_close(other(clip.flip(1)), net(clip).flip(1), rtol=0, atol=1e-5)


@torch.no_grad()
def test_there_is_no_global_residual():
    net = small()
    torch.nn.init.zeros_(net.conv_last.weight)
    torch.nn.init.zeros_(net.conv_last.bias)
    assert not net(film(1).expand(3, -1, -1, -1)[None]).any()


@torch.no_grad()
def test_stream_and_exact_equal_the_whole_clip():
    """Bit for bit, taken up again at any frame, also at one that is between; the latency of one frame is enough."""
    net, clip = small(), film(6)
    expected = torch.stack(list(restore_frames(net, clip)))
    assert len(expected) == 11
    for mode in ({'segment': 6}, {'segment': 2}, {'mode': 'stream', 'segment': 2, 'lookahead': 6}):
        assert torch.equal(upscale(net, clip, **mode), expected)
        for skip in (1, 4, 10):
            assert torch.equal(upscale(net, clip, skip=skip, **mode), expected[skip:])
    near = upscale(net, clip, mode='stream', segment=2, lookahead=0)
    assert len(near) == 11
    assert 0 < float((near - expected).abs().max()) < 1
    tiled = upscale(net, film(3, 24, 32), tile=8, tile_overlap=24)
    torch.testing.assert_close(tiled, upscale(net, film(3, 24, 32), tile=None), rtol=0, atol=1e-4)


@torch.no_grad()
def test_sides_that_do_not_divide_by_4():
    output = upscale(small(), film(2, 9, 14), segment=2)
    assert output.shape == (3, 3, 36, 56)
    assert torch.equal(output, torch.stack(list(restore_frames(small(), film(2, 9, 14)))))


@torch.no_grad()
def test_at_a_cut_the_last_frame_stays():
    """Nothing is made between two scenes: each is as by itself, and between them the first one's last frame again."""
    net = small()
    ramp = torch.linspace(0, 1, 32).expand(3, 32, 32)
    scenes = [torch.stack([ramp + 0.001 * i for i in range(3)]), torch.stack([1 - ramp.mT.flip(1)] * 2) ** 2]
    clip = torch.cat(scenes)
    apart = [upscale(net, scene) for scene in scenes]
    expected = torch.cat((apart[0], apart[0][-1:], apart[1]))
    for skip in range(len(expected)):
        assert torch.equal(upscale(net, clip, skip=skip, scene_cuts=True), expected[skip:])


def test_flipped_sequences_are_averaged():
    net, clip = small(), film(3)
    with torch.no_grad():
        output = torch.stack(list(restore_frames(net, clip, flip_seq=True)))
        both = net(torch.cat((clip, clip.flip(0)))[None])[0]
    torch.testing.assert_close(output, (both[:5] + both[-5:].flip(0)) / 2, rtol=0, atol=1e-6)
