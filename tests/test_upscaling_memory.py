"""Memory that is small: tiles are chosen by it, and halved where it runs out."""

import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from basicsr.archs import build_network

from basicsr_plugins.errors import InputError
from basicsr_plugins.inference import fitting
from basicsr_plugins.inference.settings import UpscaleSettings
from basicsr_plugins.upscaling import upscale
from basicsr_plugins.video.images import ImageTarget

from .inference.networks import film, small_network

SETTINGS = UpscaleSettings(segment=2, tile_overlap=4)
GIB = 2**30


@pytest.fixture
def frames(tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, 'LEAST_TILE', 8)
    (tmp_path / 'frames').mkdir()
    for i, frame in enumerate(film(4, 40, 48)):
        cv2.imwrite(str(tmp_path / 'frames' / f'{i}.png'), (frame.permute(1, 2, 0) * 255).round().byte().numpy())
    return tmp_path / 'frames'


def images(folder):
    return np.stack([cv2.imread(str(folder / f'{i}.png')) for i in range(4)])


def run_out(monkeypatch, net, pixels, calls_before=0):
    """Memory runs out in `upsample` where a tile has more pixels, from some call on."""
    original, calls = type(net).upsample, []

    def upsample(self, frame, backward_state, state):
        calls.append(frame.shape)
        if len(calls) > calls_before and frame.size(-1) * frame.size(-2) > pixels:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")
        return original(self, frame=frame, backward_state=backward_state, state=state)

    monkeypatch.setattr(type(net), 'upsample', upsample)


def test_tiles_are_halved(tmp_path, frames, monkeypatch):
    """In the middle of a film: what is done stays, the rest comes in tiles, the first that memory takes."""
    net = small_network('EFAR')
    upscale(net, frames, tmp_path / 'whole', SETTINGS, show_progress=False)
    run_out(monkeypatch, net, 20 * 20, calls_before=2)
    notes = upscale(net, frames, tmp_path / 'out', SETTINGS, show_progress=False)
    assert notes == [f'memory ran out; the film goes on in tiles of {side} pixels.' for side in (24, 12)]
    whole, ours = images(tmp_path / 'whole'), images(tmp_path / 'out')
    assert np.array_equal(ours[:2], whole[:2])
    difference = np.abs(ours[2:].astype(int) - whole[2:])
    assert difference.max() <= 8
    assert difference.mean() < 0.5


def test_the_tiles_of_an_interrupted_run_are_kept(tmp_path, frames, monkeypatch):
    net = small_network('EFAR')
    run_out(monkeypatch, net, 20 * 20)
    upscale(net, frames, tmp_path / 'alone', SETTINGS, show_progress=False)
    monkeypatch.setattr('basicsr_plugins.upscaling_run.free_memory', lambda device: GIB // 8)
    original = ImageTarget._write

    def stop(self, index, frame):
        if index == 2:
            raise KeyboardInterrupt
        original(self, index, frame)

    with monkeypatch.context() as patch:
        patch.setattr(ImageTarget, '_write', stop)
        with pytest.raises(KeyboardInterrupt):
            upscale(net, frames, tmp_path / 'out', SETTINGS, show_progress=False)
    choice = tmp_path / '.out.parts' / 'fitted'
    content = choice.read_text()
    choice.write_text('{}')
    with pytest.raises(InputError, match='fitted is damaged; start over with force'):
        upscale(net, frames, tmp_path / 'out', SETTINGS, resume=True, show_progress=False)
    choice.write_text(content)
    assert upscale(net, frames, tmp_path / 'out', SETTINGS, resume=True, show_progress=False) == []
    assert np.array_equal(images(tmp_path / 'out'), images(tmp_path / 'alone'))


def test_memory_is_too_small_for_the_least_tiles(tmp_path, frames, monkeypatch):
    net = small_network('EFAR')
    run_out(monkeypatch, net, 0)
    with pytest.raises(InputError, match='memory is too small even for tiles of 12 pixels; free some, or take a'):
        upscale(net, frames, tmp_path / 'out', SETTINGS, show_progress=False)


def test_memory_is_too_small_by_the_estimate(tmp_path, frames, monkeypatch):
    monkeypatch.setattr('basicsr_plugins.upscaling_run.free_memory', lambda device: 1000)
    with pytest.raises(InputError, match=r'memory is too small: frames of 48x40 take 0\.\d GiB even in tiles of 10 '):
        upscale(small_network('EFAR'), frames, tmp_path / 'out', SETTINGS, show_progress=False)
    assert not (tmp_path / '.out.parts').exists()


@pytest.mark.skipif(sys.platform != 'linux', reason='memory is what Linux says')
@pytest.mark.parametrize(
    ('network', 'flow_is_tiled'),
    [
        ({'type': 'RLSP'}, False),
        ({'type': 'EFAR', 'num_block': 2}, True),
        ({'type': 'BasicVSR', 'num_block': 2}, True),
    ],
)
def test_a_frame_of_4k_on_4_gib(tmp_path, network, flow_is_tiled):
    """By what networks were measured to take; flow of whole frames takes more than that."""
    torch.manual_seed(0)
    settings = UpscaleSettings(temp_dir=tmp_path)
    need = fitting.measure_need(build_network(network).eval(), settings)
    fitted = fitting.fit(settings, (2160, 3840), need, 4 * GIB)
    assert fitted.tile >= 80
    assert fitted.whole_dir == tmp_path  # states and HR frames are larger than that: 192 bytes a pixel each
    assert (fitted.flow_tile is not None) == flow_is_tiled == (need.flow * 2160 * 3840 > 4 * GIB)
    roomy = fitting.fit(settings, (2160, 3840), need, 64 * GIB)
    assert (roomy.whole_dir, roomy.flow_tile) == (None, None)


LIMITED = """
import resource, sys
import torch
from basicsr.archs import build_network
from basicsr_plugins.inference.settings import UpscaleSettings
from basicsr_plugins.upscaling import upscale
torch.set_num_threads(1)
net = build_network({'type': 'MSRResNet', 'num_feat': 32, 'num_block': 1}).eval()
tile = {'none': None}.get(sys.argv[2], sys.argv[2])
taken = [line for line in open('/proc/self/status') if line.startswith('VmSize')][0].split()[1]
resource.setrlimit(resource.RLIMIT_AS, (int(taken) * 1024 + 400 * 2**20,) * 2)
upscale(net, 'frames', sys.argv[1], UpscaleSettings(tile=tile, tile_overlap=8))
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='memory is what Linux says')
@pytest.mark.parametrize(('tile', 'words'), [('none', 'memory ran out; the film goes on'), ('auto', 'that are free')])
def test_an_address_space_that_is_too_small_for_a_frame(tmp_path, tile, words):
    """256x256 in one piece takes 500 MB, and 400 are left."""
    (tmp_path / 'frames').mkdir()
    picture = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    cv2.imwrite(str(tmp_path / 'frames' / '0.png'), picture)
    command = [sys.executable, '-c', LIMITED, 'out', tile]
    environment = {**os.environ, 'MALLOC_ARENA_MAX': '1'}  # each thread's own takes 64 MB of addresses
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    assert words in result.stderr
    assert cv2.imread(str(tmp_path / 'out' / '0.png')).shape == (1024, 1024, 3)
