"""Networks of windows, of images and of sequences without known steps, and tiles."""

import pytest
import torch

from basicsr_plugins.inference.tiles import split_into_tiles
from basicsr_plugins.models.restoration import restore_frames

from .networks import OTHERS, Recurrent, film, small_network, upscale


@torch.no_grad()
def test_chunks_as_cut_by_hand():
    net, clip = Recurrent(), film(11, 6, 7)
    output = upscale(net, clip, segment=4, lookahead=2)
    for start, end, first, after in ((0, 6, 0, 4), (2, 10, 4, 8), (6, 11, 8, 11)):
        expected = net(clip[None, start:end])[0, first - start : after - start]
        torch.testing.assert_close(output[first:after], expected)
    torch.testing.assert_close(upscale(net, clip, segment=4, lookahead=11), net(clip[None])[0])


@torch.no_grad()
def test_chunks_blended():
    """Around the border at 4 two frames of each side go over linearly."""
    net, clip = Recurrent(), film(10, 6, 7)
    output = upscale(net, clip, segment=4, lookahead=2, blend=True)
    first, second, third = net(clip[None, 0:6])[0], net(clip[None, 2:10])[0], net(clip[None, 6:10])[0]
    torch.testing.assert_close(output[:2], first[:2])
    for i, weight in zip((2, 3, 4, 5), (0.125, 0.375, 0.625, 0.875)):
        torch.testing.assert_close(output[i], (1 - weight) * first[i] + weight * second[i - 2])
    for i, weight in zip((6, 7, 8, 9), (0.125, 0.375, 0.625, 0.875)):
        torch.testing.assert_close(output[i], (1 - weight) * second[i - 2] + weight * third[i - 6])


@torch.no_grad()
@pytest.mark.parametrize('blend', [False, True])
@pytest.mark.parametrize('name', OTHERS)
def test_skipped_frames_of_other_networks(name, blend):
    net, clip = OTHERS[name](), film(14, 12, 12)
    settings = {'segment': 4, 'lookahead': 2, 'blend': blend}
    whole = upscale(net, clip, **settings)
    for skip in (1, 3, 4, 6, 7, 10, 13):
        assert torch.equal(upscale(net, clip, skip=skip, **settings), whole[skip:])


@torch.no_grad()
@pytest.mark.parametrize('name', ['MSFFN', 'EDVR', 'MSRResNet'])
def test_windows_and_images_as_in_validation(name):
    net, clip = OTHERS[name](), film(6, 12, 14)
    assert torch.equal(upscale(net, clip), torch.stack(list(restore_frames(net, clip))))


# ---------------------------------------------------------------------------- tiles


@torch.no_grad()
@pytest.mark.parametrize('name', ['EFAR', 'BasicVSR', 'MSRResNet', 'MSFFN'])
def test_tiles_show_no_borders(name):
    """What a step sees lies within the overlap here, so only rounding is left, after many frames too."""
    net = OTHERS[name]() if name in OTHERS else small_network(name)
    clip = film(6, 61, 50)
    whole = upscale(net, clip, segment=4)
    if hasattr(net, 'spynet'):
        with torch.no_grad():
            assert 2 < net.spynet(clip[:1], clip[1:2]).abs().max() < 16
    tiled = upscale(net, clip, segment=4, tile=24, tile_overlap=24)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)
    assert (upscale(net, clip, segment=4, tile=24, tile_overlap=0) - whole).abs().max() > 1e-3


@pytest.mark.parametrize(
    ('size', 'tile', 'overlap', 'multiple'), [(61, 24, 5, 4), (8, 8, 3, 16), (37, 11, 0, 2), (50, 13, 7, 1)]
)
def test_tiles_lie_on_the_grid(size, tile, overlap, multiple):
    """They cover the frame once; what they begin and end at, with their borders, divides but at the frame's end."""
    tiles = split_into_tiles((size, 1), tile, overlap, multiple)
    inner = [one.inner[0] for one in tiles]
    assert [0, *(rows.stop for rows in inner)] == [*(rows.start for rows in inner), size]
    for rows, outer in ((one.inner[0], one.outer[0]) for one in tiles):
        assert 0 < rows.stop - rows.start <= max(tile, multiple)
        assert outer.start <= max(rows.start - overlap, 0)
        assert outer.stop >= min(rows.stop + overlap, size)
        for end in (rows.start, outer.start, *(stop for stop in (rows.stop, outer.stop) if stop < size)):
            assert end % multiple == 0


@torch.no_grad()
def test_tiles_of_chunks():
    """A network that sees no neighbouring pixels."""
    net, clip = Recurrent(), film(7, 20, 33)
    settings = {'segment': 3, 'lookahead': 2, 'blend': True}
    tiled = upscale(net, clip, tile=8, tile_overlap=3, **settings)
    torch.testing.assert_close(tiled, upscale(net, clip, **settings))
