"""Films of any length through EFAR and BasicVSR: against the network on the whole sequence, and scenes apart."""

import pytest
import torch
from basicsr.archs import build_network

from basicsr_plugins.errors import InputError
from basicsr_plugins.inference import UpscaleSettings, upscale_frames

from .clips import load_clip
from .networks import OTHERS, film, small_network, upscale


@pytest.fixture(scope='module')
def city(shared):
    return load_clip(shared / 'data' / 'Vid4' / 'BIx4' / 'city')  # (34, 3, 144, 176)


NETWORKS = {'EFAR': ('EFAR', {}), 'coupled': ('EFAR', {'coupled_propagation': True}), 'BasicVSR': ('BasicVSR', {})}


# ---------------------------------------------------------------------------- exact


@torch.no_grad()
@pytest.mark.parametrize(
    ('name', 'size'),
    [(name, size) for name in ('EFAR', 'BasicVSR') for size in ((8, 12), (9, 13), (16, 5))] + [('coupled', (7, 9))],
)
def test_exact_equals_the_whole_sequence(city, name, size):
    """Vid4 city, 34 frames, bit for bit: with itself in one segment and with the network on all frames at once."""
    kind, arguments = NETWORKS[name]
    net = small_network(kind, **arguments)
    clip = city[:, :, 40 : 40 + size[0], 60 : 60 + size[1]]
    whole = upscale(net, clip, segment=34, scene_cuts=False)
    expected = net(clip.unsqueeze(0))[0]
    if kind == 'EFAR':
        assert torch.equal(whole, expected)
    else:  # it computes the flows of all frames as one batch
        torch.testing.assert_close(whole, expected, rtol=0, atol=1e-5)
    for segment in (1, 3, 5):
        assert torch.equal(upscale(net, clip, segment=segment, scene_cuts=False), whole)
    blind = upscale(net, clip, mode='stream', segment=1, lookahead=0, scene_cuts=False)
    assert (blind - whole)[:-1].abs().amax((1, 2, 3)).min() > 1e-4  # the backward pass matters in every frame


@torch.no_grad()
@pytest.mark.parametrize('name', ['EFAR', 'BasicVSR'])
def test_exact_with_the_real_flow_network(shared, city, name):
    path = str(shared / 'weights' / 'spynet_sintel_final.pth')
    net = small_network(name, spynet=build_network({'type': 'SpyNet', 'load_path': path}))
    clip = city[:7, :, 30:66, 40:75]
    torch.testing.assert_close(upscale(net, clip, segment=3), net(clip.unsqueeze(0))[0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_border_states_in_half_precision():
    """They cost half the space and little else; and without borders nothing."""
    net = small_network('EFAR')
    clip = film(12, 16, 16)
    exact, half = upscale(net, clip, segment=4), upscale(net, clip, segment=4, state_dtype=torch.float16)
    assert 0 < (half - exact).abs().max() < 1e-3
    assert torch.equal(upscale(net, clip, segment=12, state_dtype=torch.float16), exact)


@torch.no_grad()
def test_backward_steps_that_are_taken():
    """All but the first segment's twice; none that only skipped frames need."""
    taken = {}

    def progress(stage, done):
        taken[stage] = done

    net, clip = small_network('EFAR'), film(11, 8, 8)
    for skip, segment, backward in ((0, 11, 11), (0, 4, 7 + 11), (0, 1, 10 + 11), (5, 4, 3 + 7), (11, 4, 0)):
        taken.clear()
        list(upscale_frames(net, clip, UpscaleSettings(segment=segment), skip=skip, progress=progress))
        assert taken.get('backward', 0) == backward
        assert taken['read'] == taken['upscale'] == 11


# ---------------------------------------------------------------------------- stream


@torch.no_grad()
@pytest.mark.parametrize(('segment', 'lookahead'), [(1, 0), (1, 2), (3, 0), (3, 2)])
@pytest.mark.parametrize('name', ['EFAR', 'BasicVSR'])
def test_stream_sees_what_it_says(name, segment, lookahead):
    """Reading ahead: a frame comes out as soon as the frames after its block are there, and no earlier."""
    net = small_network(name)
    clip = film(13, 10, 12)
    ahead = max(lookahead, 1 if name == 'EFAR' else 0)
    read = []

    def source():
        for i, frame in enumerate(clip):
            read.append(i)
            yield frame

    settings = UpscaleSettings(mode='stream', segment=segment, lookahead=lookahead, scene_cuts=False)
    for i, _ in enumerate(upscale_frames(net, source(), settings)):
        end = i // segment * segment + segment
        assert len(read) == min(end + ahead, 13)


@torch.no_grad()
@pytest.mark.parametrize('name', NETWORKS)
def test_stream_against_the_network_on_a_shorter_clip(name):
    """A block is what the network makes of a clip that ends with the block's lookahead, but for the frame after it."""
    kind, arguments = NETWORKS[name]
    net = small_network(kind, **arguments)
    clip = film(12, 10, 12)
    streamed = upscale(net, clip, mode='stream', segment=2, lookahead=3)
    for end in (2, 4, 6):
        known = net(clip[None, : end + 3])[0]
        difference = (streamed[end - 2 : end] - known[end - 2 : end]).abs().max()
        if name == 'coupled':  # its forward states before have seen other backward states
            assert difference < 1e-2
        else:
            assert difference < 1e-5
    exact = upscale(net, clip)
    torch.testing.assert_close(streamed[8:], exact[8:], rtol=0, atol=1e-2 if name == 'coupled' else 1e-6)
    assert torch.equal(upscale(net, clip, mode='stream', segment=2, lookahead=12), exact)


@torch.no_grad()
@pytest.mark.parametrize('name', ['EFAR', 'BasicVSR'])
def test_more_lookahead_comes_closer(name):
    net, clip = small_network(name), film(12, 12, 12)
    exact = upscale(net, clip)
    errors = [
        (upscale(net, clip, mode='stream', segment=1, lookahead=n) - exact).abs().mean().item() for n in (0, 2, 5, 12)
    ]
    assert errors[0] > 2 * errors[1] > 4 * errors[2] > errors[3] == 0


# ---------------------------------------------------------------------------- taken up again, scenes


@torch.no_grad()
@pytest.mark.parametrize('mode', ['exact', 'stream'])
@pytest.mark.parametrize('name', NETWORKS)
def test_skipped_frames(name, mode):
    """The rest is the same, in a film of one scene and of three."""
    kind, arguments = NETWORKS[name]
    net = small_network(kind, **arguments)
    settings = {'mode': mode, 'segment': 3, 'lookahead': 2}
    films = film(10, 8, 9), torch.cat([film(3, 32, 32, seed) for seed in (1, 2, 3)])
    for clip in films:
        undisturbed = upscale(net, clip, **settings)
        for skip in (1, 3, 5, len(clip) - 1):
            assert torch.equal(upscale(net, clip, skip=skip, **settings), undisturbed[skip:])
        assert len(upscale(net, clip, skip=len(clip), **settings)) == 0


@torch.no_grad()
@pytest.mark.parametrize('mode', ['exact', 'stream'])
@pytest.mark.parametrize('name', ['EFAR', 'BasicVSR', 'IconVSR-like', 'MSFFN'])
def test_scenes_are_upscaled_apart(name, mode):
    net = OTHERS[name]() if name in OTHERS else small_network(name)
    scenes = film(5, 32, 32, 1), film(4, 32, 32, 2)
    settings = {'mode': mode, 'segment': 2, 'lookahead': 2}
    apart = torch.cat([upscale(net, scene, **settings) for scene in scenes])
    together = torch.cat(scenes)
    assert torch.equal(upscale(net, together, **settings), apart)
    assert not torch.equal(upscale(net, together, scene_cuts=False, **settings)[4:6], apart[4:6])


# ---------------------------------------------------------------------------- the caller


@torch.no_grad()
@pytest.mark.parametrize('mode', ['exact', 'stream'])
@pytest.mark.parametrize('name', ['EFAR', *OTHERS])
def test_frames_of_another_size_start_a_scene(name, mode):
    net = small_network('EFAR') if name == 'EFAR' else OTHERS[name]()
    parts = [film(4, 16, 16, seed=1), film(3, 12, 20, seed=1), film(4, 16, 16, seed=1)]
    frames = [frame for part in parts for frame in part]
    settings = UpscaleSettings(mode=mode, segment=2, lookahead=2, scene_cuts=False)
    apart = [hr for part in parts for hr in upscale_frames(net, part, settings)]
    assert [hr.shape[-2:] for hr in apart[3:5]] == [(64, 64), (48, 80)]
    for skip in (0, 5):
        together = list(upscale_frames(net, frames, settings, skip))
        assert len(together) == 11 - skip
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(together, apart[skip:]))


@torch.no_grad()
@pytest.mark.parametrize('name', ['EFAR', 'BasicVSR'])
def test_bfloat16(name):
    """The network itself, its caller and what makes the frames stay in float32."""
    net, clip = small_network(name), film(5, 16, 16)
    states = {key: value.clone() for key, value in net.state_dict().items()}
    seen = []

    def source():
        for frame in clip:
            seen.append((frame.flatten(1) @ frame.flatten(1).T).dtype)
            yield frame

    output = []
    for frame in upscale_frames(net, source(), UpscaleSettings(dtype=torch.bfloat16)):
        seen.append((frame[0] @ frame[0].T).dtype)
        output.append(frame)
    assert set(seen) == {torch.float32}
    difference = (torch.stack(output) - upscale(net, clip)).abs().mean()
    assert 1e-5 < difference < 1e-2
    assert all(torch.equal(value, states[key]) for key, value in net.state_dict().items())


def test_gradients_and_training_mode_are_the_callers():
    net = small_network('EFAR').train()
    upscaled = upscale_frames(net, film(3, 8, 8))
    frame = next(upscaled)
    assert not frame.requires_grad
    assert torch.is_grad_enabled()
    assert not net.training
    upscaled.close()
    assert net.training


def test_no_frames():
    assert list(upscale_frames(small_network('EFAR'), [])) == []


@pytest.mark.parametrize('dtype', [torch.float64, torch.float16])
def test_frames_of_other_precision(dtype):
    """They are worked on in float32."""
    net, clip = small_network('EFAR'), film(3, 8, 8).to(dtype)
    assert torch.equal(upscale(net, clip), upscale(net, clip.float()))


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'mode': 'fast'}, "mode is 'fast', but must be one of exact, stream"),
        ({'segment': 0}, 'segment is 0, but must be a whole number from 1 on'),
        ({'lookahead': -1}, 'lookahead is -1'),
        ({'tile': 4}, 'tile is 4, but must be a whole number from 8 on'),
        ({'tile_overlap': 1.5}, 'tile_overlap is 1.5'),
        ({'flow_tile': 16}, 'flow_tile is 16, but must be a whole number from 32 on'),
        ({'state_dtype': torch.int8}, r'state_dtype is torch.int8, but must be one of torch.float32, torch.float16'),
        ({'dtype': torch.float64}, 'dtype is torch.float64'),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(InputError, match=message):
        UpscaleSettings(**settings)


def test_wrong_frames():
    net = small_network('EFAR')
    with pytest.raises(InputError, match=r'frame 0 is \(8, 8, 3\)'):
        list(upscale_frames(net, [torch.rand(8, 8, 3)]))
    with pytest.raises(InputError, match=r'frame 0 is .*uint8'):
        list(upscale_frames(net, [torch.zeros(3, 8, 8, dtype=torch.uint8)]))
    with pytest.raises(InputError, match='skip is -1'):
        upscale_frames(net, [], skip=-1)


def test_flow_of_unknown_networks_stays_in_float32():
    net = build_network({'type': 'BasicVSRPlusPlus', 'mid_channels': 8, 'num_blocks': 1})
    with pytest.raises(InputError, match=r'BasicVSRPlusPlus estimates optical flow, which needs torch.float32'):
        upscale_frames(net, [], UpscaleSettings(dtype=torch.float16))


@torch.no_grad()
@pytest.mark.parametrize('name', ['EFAR', 'BasicVSR'])
def test_tiles_under_fast_motion(name):
    """States come from as far as the flow reaches, also beyond the overlap."""
    net = small_network(*NETWORKS[name][:1], **NETWORKS[name][1])
    reach = torch.tensor([22.0, -9.0]).view(1, 2, 1, 1)
    net.spynet.forward = lambda ref, supp: reach.expand(1, 2, *ref.shape[-2:]).clone()
    frames = torch.rand(4, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    whole, tiled = (
        torch.stack(list(upscale_frames(net, frames, UpscaleSettings(tile=tile, tile_overlap=12, scene_cuts=False))))
        for tile in (None, 16)
    )
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-3)
