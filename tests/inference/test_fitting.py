"""Tiles and segments by the memory that is free."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from basicsr_plugins.errors import InputError
from basicsr_plugins.inference.buffers import tensor_on_disk
from basicsr_plugins.inference.fitting import LEAST_TILE, SHARE, Need, fit, halve, halve_flow, measure_need
from basicsr_plugins.inference.settings import UpscaleSettings
from basicsr_plugins.memory import PeakMemory

from .networks import OTHERS, build_msffn, film, small_network, upscale

UHD = 2160, 3840
NEED = Need(work=10_000, frame=100, whole=200, state=100)


def test_total_by_hand():
    settings = UpscaleSettings(tile=100, tile_overlap=10, segment=7)
    assert NEED.total((50, 400), settings) == 10_000 * 50 * 120 + (300 + 7 * 100) * 50 * 400
    assert NEED.total((50, 400), UpscaleSettings(tile=None, segment=7)) == (10_000 + 300 + 7 * 100) * 50 * 400
    on_disk = UpscaleSettings(tile=100, tile_overlap=10, whole_dir=Path('temp'))
    assert NEED.total((50, 400), on_disk) == 10_000 * 50 * 120 + 100 * 50 * 400


@pytest.mark.parametrize(
    ('size', 'free', 'tile', 'segment'),
    [
        ((480, 640), 5e9, None, 10),
        ((480, 640), 4.1e9, None, 2),
        ((480, 640), 2.5e9, 320, 10),
        ((480, 640), 9e8, 160, 2),
        (UHD, 1e13, 320, 10),  # in one piece would fit, but large frames are worked on in tiles
        (UHD, 1.5e10, 320, 5),
        (UHD, 5e9, 160, 1),
        (UHD, 4.5e9, 80, 1),
    ],
)
def test_the_largest_tiles_that_fit(size, free, tile, segment):
    settings = fit(UpscaleSettings(), size, NEED, int(free))
    assert (settings.tile, settings.segment) == (tile, segment)
    assert NEED.total(size, settings) <= SHARE * free
    if segment < 10:
        longer = {5: 10, 2: 5, 1: 2}[segment]
        assert NEED.total(size, UpscaleSettings(tile=tile, segment=longer)) > SHARE * free


def test_segments_of_stream_are_the_users():
    """They change the frames; those of exact do not."""
    assert fit(UpscaleSettings(mode='stream'), (480, 640), NEED, int(2.5e9)).segment == 10


def test_what_is_put_together_lies_on_disk_where_nothing_else_helps():
    settings = UpscaleSettings(temp_dir=Path('temp'))
    fitted = fit(settings, UHD, NEED, int(3e9))
    assert (fitted.tile, fitted.segment, fitted.whole_dir) == (320, 10, Path('temp'))
    assert fit(settings, UHD, NEED, int(4.5e9)).whole_dir is None


@torch.no_grad()
@pytest.mark.parametrize('name', ['EFAR', 'MSRResNet'])
def test_frames_on_disk_are_those_in_memory(tmp_path, name):
    net = small_network('EFAR') if name == 'EFAR' else OTHERS[name]()
    settings = {'tile': 16, 'tile_overlap': 4, 'segment': 2}
    expected = upscale(net, film(4, 24, 36), **settings)
    assert torch.equal(upscale(net, film(4, 24, 36), whole_dir=tmp_path, **settings), expected)
    assert not list(tmp_path.iterdir())  # the files have no name
    with pytest.raises(InputError, match='give a folder with more space as temp_dir'):
        tensor_on_disk((2**40, 2**10), torch.float32, tmp_path)


def test_flow_in_tiles_where_that_of_whole_frames_is_too_much():
    need, settings = replace(NEED, flow=600), UpscaleSettings(temp_dir=Path('temp'))
    assert need.total(UHD, UpscaleSettings(tile=320, flow_tile=512, whole_dir=Path('temp'))) == (
        10_000 * 384**2 + 100 * 2160 * 3840
    )
    assert need.total(UHD, UpscaleSettings(tile=40, flow_tile=512)) == 600 * 768**2 + 1300 * 2160 * 3840
    for free, tile, flow_tile in ((8e9, 320, None), (6e9, 320, 1024), (3.5e9, 320, 1024), (2e9, 160, 512)):
        fitted = fit(settings, UHD, need, int(free))
        assert (fitted.tile, fitted.flow_tile) == (tile, flow_tile)
        assert need.total(UHD, fitted) <= SHARE * free
    with pytest.raises(InputError, match=r'take 0\.9 GiB even in tiles of 40 pixels'):
        fit(settings, UHD, need, int(1e9))
    assert fit(settings, (240, 256), need, int(1e9)).flow_tile is None


def test_halving_of_flow():
    assert [halve_flow(tile, UHD) for tile in (None, 1024, 512, 256)] == [1024, 512, 256, 256]
    assert halve_flow(None, (400, 600)) == 512
    assert halve_flow(None, (256, 200)) is None


def test_memory_that_is_too_small():
    with pytest.raises(InputError) as refused:
        fit(UpscaleSettings(), UHD, NEED, int(3e9))
    assert str(refused.value) == (
        'memory is too small: frames of 3840x2160 take 3.2 GiB even in tiles of 40 pixels, and 2.2 GiB can be taken; '
        'free some, or take a smaller network.'
    )


def test_halving():
    assert halve(None, (480, 640)) == 320
    assert halve(None, (100, 120)) == 60
    assert halve(320, UHD) == 160
    assert halve(LEAST_TILE, UHD) is None
    assert halve(None, (40, 30)) is None


@pytest.mark.skipif(sys.platform != 'linux', reason='memory is what Linux says')
@torch.no_grad()
@pytest.mark.parametrize('name', ['EFAR', 'MSFFN'])
def test_what_is_measured_is_what_larger_frames_take(name):
    net = build_msffn() if name == 'MSFFN' else small_network('EFAR', num_feat=16)
    settings = UpscaleSettings(tile=None, segment=2, scene_cuts=False)
    need = measure_need(net, settings)
    if name == 'EFAR':
        assert need.state == 4 * 16  # a tensor of 16 channels
        assert need.whole == 12 * 16 * 4 + 3 * 4 * 16 + 2 * 4 * 16
        assert need.frame >= 12 * 7 + 4 * 4 * 2  # and what flow takes
    frames = film(2, 160, 192)
    with PeakMemory('cpu') as memory:
        upscale(net, frames, tile=None, segment=2, scene_cuts=False)
    assert 0.6 < need.total((160, 192), settings) / memory.bytes < 2


def test_networks_of_sequences_take_their_chunk():
    from .networks import Recurrent

    short, long = (measure_need(Recurrent(), UpscaleSettings(segment=4, lookahead=ahead)) for ahead in (0, 8))
    assert long.work / short.work == pytest.approx(5, rel=0.5)
    assert long.state == 0
