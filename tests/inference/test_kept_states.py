"""What an interrupted run has computed is there for the next: the same frames, and few steps again."""

import shutil

import pytest
import torch

from basicsr_plugins.inference import UpscaleSettings
from basicsr_plugins.inference import propagation as propagation_module
from basicsr_plugins.inference.buffers import KeptStates, forget_states
from basicsr_plugins.inference.engine import upscale_pairs

from .networks import film, small_network

NETWORKS = {'EFAR': ('EFAR', {}), 'coupled': ('EFAR', {'coupled_propagation': True}), 'BasicVSR': ('BasicVSR', {})}


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(propagation_module, 'KEEP_EVERY', 4)


def run(net, clip, keep=None, skip=0, stop=None, stop_backward=None, **settings):
    """HR frames up to the `stop`-th, and how often each step was taken; Ctrl-C in the `stop_backward`-th one."""
    taken = {'backward': 0}

    def progress(stage, done):
        taken[stage] = done
        if stage == 'backward' and done == stop_backward:
            raise KeyboardInterrupt

    settings = {'segment': 2, 'lookahead': 2, **settings}
    pairs = upscale_pairs(net, iter(clip), UpscaleSettings(**settings), skip, progress, keep)
    frames = []
    try:
        for _, hr in pairs:
            if len(frames) == stop:
                break
            frames.append(hr)
            if keep is not None:
                forget_states(keep, skip + len(frames))
    except KeyboardInterrupt:
        pass
    pairs.close()
    return frames, taken


@torch.no_grad()
@pytest.mark.parametrize('mode', ['exact', 'stream'])
@pytest.mark.parametrize('name', NETWORKS)
@pytest.mark.parametrize('scenes', [1, 3])
def test_interrupted_anywhere_and_gone_on(tmp_path, name, mode, scenes):
    kind, arguments = NETWORKS[name]
    net = small_network(kind, **arguments)
    clip = film(13, 12, 12) if scenes == 1 else torch.cat([film(4, 32, 32, seed) for seed in (1, 2, 3)])
    undisturbed, _ = run(net, clip, mode=mode)
    for stop in (1, 5, 8, 11):
        keep = tmp_path / str(stop)
        frames, _ = run(net, clip, keep, stop=stop, mode=mode)
        rest, taken = run(net, clip, keep, skip=stop, mode=mode)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(frames + rest, undisturbed))
        assert len(frames + rest) == len(clip) == taken['upscale']
        if mode == 'exact' and scenes == 1 and name != 'coupled':
            start = stop // 2 * 2
            assert taken['backward'] == len(clip) - start  # those of the segments, none of the pass from the end


@torch.no_grad()
@pytest.mark.parametrize('state_dtype', [torch.float32, torch.float16])
def test_interrupted_in_the_backward_pass(tmp_path, state_dtype):
    """It goes on from the last border; not from one that was rounded, which would give others."""
    net, clip = small_network('EFAR'), film(13, 12, 12)
    undisturbed, _ = run(net, clip, state_dtype=state_dtype)
    run(net, clip, tmp_path, stop_backward=8, state_dtype=state_dtype)  # of frames 12 to 5
    frames, taken = run(net, clip, tmp_path, state_dtype=state_dtype)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(frames, undisturbed))
    assert taken['backward'] == 13 + (4 if state_dtype == torch.float32 else 11)  # from the border at frame 6, or all


@torch.no_grad()
@pytest.mark.parametrize('kind', ['backward', 'forward'])
def test_damaged_states_are_computed_again(tmp_path, kind):
    net, clip = small_network('EFAR'), film(13, 12, 12)
    undisturbed, _ = run(net, clip)
    run(net, clip, tmp_path, stop=5)
    files = sorted(tmp_path.glob(f'{kind}_*'))
    assert files
    for number, file in enumerate(files):
        data = bytearray(file.read_bytes())
        data[-1 - number] ^= 1
        file.write_bytes(data[: len(data) - number])  # some are torn
    rest, _ = run(net, clip, tmp_path, skip=5)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(rest, undisturbed[5:]))


def test_only_what_is_needed_is_kept(tmp_path):
    net, clip = small_network('EFAR'), film(13, 8, 8)
    run(net, clip, tmp_path, stop=9)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ['backward_00000010', 'backward_00000012', 'forward_00000008']
    run(net, clip, tmp_path, skip=9)
    assert [file.name for file in tmp_path.iterdir()] == ['forward_00000012']


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_states_come_back_exactly(tmp_path, dtype):
    states = KeptStates(tmp_path / 'new', 'forward', 100)
    original = (torch.randn(1, 2, 3, 4).to(dtype), torch.randn(1, 5, 3, 4))
    states.save(20, original)
    states.save(30, original[0])
    for loaded, tensor in zip(states.load(20), original):
        assert loaded.dtype == tensor.dtype
        assert torch.equal(loaded, tensor)
    assert states.load(21) is None
    assert [states.latest(last)[0] for last in (19, 20, 29, 30, 99)] == [0, 20, 20, 30, 30]
    shutil.rmtree(tmp_path / 'new')
    assert states.latest(99) == (0, None)
