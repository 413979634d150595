"""`upscale --scale, --size, --fit`: the sizes, who makes them, the shape of pixels, notes and what is refused."""

from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from torch.nn import functional as F

from basicsr_plugins.commands import upscale as upscale_command
from basicsr_plugins.errors import InputError
from basicsr_plugins.inference.settings import UpscaleSettings
from basicsr_plugins.ops.bicubic import resize_bicubic
from basicsr_plugins.output_size import OutputSize, parse_output_size
from basicsr_plugins.upscaling import upscale
from basicsr_plugins.video.opening import VideoSettings, open_source

from .video.test_film import make_video, moving

SMALL = {'num_feat': 8, 'num_block': 1, 'num_extract_block': 1, 'num_upsample_block': 1, 'deform_groups': 4}


class Film:
    """What of a source sizes depend on."""

    name, is_video = 'film.mp4', True

    def __init__(self, w, h, aspect=None):
        self.size, self.aspect = (h, w), aspect


@pytest.mark.parametrize(
    ('film', 'asked', 'size'),
    [
        (Film(853, 480), {'scale': '2.7'}, (2304, 1296)),  # 2303.1 x 1296, to the nearest even number
        (Film(853, 480), {'scale': '3x1.5'}, (2560, 720)),
        (Film(854, 480), {'scale': '9/4'}, (1922, 1080)),
        (Film(640, 480), {'fit': '1920x1080'}, (1440, 1080)),
        (Film(853, 480), {'fit': '1920x1080'}, (1918, 1080)),  # 1919.25: no wider than the shape, and even
        (Film(1280, 544), {'fit': '1921x1080'}, (1920, 816)),
        (Film(720, 576, Fraction(16, 15)), {'fit': '1920x1080'}, (1440, 1080)),  # 4:3 as it is shown
        (Film(720, 576, Fraction(64, 45)), {'fit': '1920x1080'}, (1920, 1080)),  # 16:9
        (Film(640, 480), {'size': '1920x1081'}, (1920, 1081)),  # as asked; the film refuses it
    ],
)
def test_sizes(film, asked, size):
    asked = parse_output_size(**asked)
    assert asked.of(film, (2, 2)) == size[::-1]


def run(tmp_path, net, source, *, name='out', **asked):
    notes = upscale(
        net,
        source,
        tmp_path / name,
        UpscaleSettings(scene_cuts=False),
        VideoSettings(crf=0),
        show_progress=False,
        force=True,
        output_size=parse_output_size(**asked),
    )
    return notes


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / 'images'
    folder.mkdir()
    for i, frame in enumerate(moving(3)):
        frame = frame[:, :16, :22]
        cv2.imwrite(str(folder / f'{i:08d}.png'), (frame.permute(1, 2, 0).numpy()[..., ::-1] * 255).round())
    return folder


def read(folder):
    pictures = [cv2.imread(str(path))[..., ::-1].copy() for path in sorted(folder.iterdir())]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def as_written(frames):
    return (frames.clamp(0, 1) * 255).round().byte()


@torch.no_grad()
@pytest.mark.parametrize('asked', [{'scale': '2.7'}, {'scale': '3x1.5'}, {'size': '57x61'}, {'fit': '61x60'}])
def test_a_network_of_any_scale_makes_it(asked, tmp_path, images):
    torch.manual_seed(0)
    net = build_network({'type': 'BasicAVSR', 'trained_scales': (2, 3), **SMALL}).eval()
    lq = torch.stack(list(open_source(images)))
    notes = run(tmp_path, net, images, **asked)
    size = {'2.7': (43, 59), '3x1.5': (24, 66), '57x61': (61, 57), '61x60': (44, 61)}[next(iter(asked.values()))]
    written = read(tmp_path / 'out')
    assert torch.equal(written, as_written(net(lq[None], size=size)[0]))
    shapes = [note for note in notes if 'the picture is stretched' in note]
    assert bool(shapes) == (asked in ({'scale': '3x1.5'}, {'size': '57x61'}))
    outside = [note for note in notes if 'BasicAVSR is trained for factors from 2 to 3, but upscales by' in note]
    assert bool(outside) == (asked in ({'scale': '3x1.5'}, {'size': '57x61'}))


@torch.no_grad()
def test_frames_of_another_network_are_resized(tmp_path, images):
    torch.manual_seed(0)
    net = build_network({'type': 'RLSP', 'num_feat': 8, 'num_conv': 2}).eval()
    lq = torch.stack(list(open_source(images)))
    assert run(tmp_path, net, images, size='66x48') == [
        'RLSP upscales by 4 (it can be built for 2, 3, 4), to 88x64; its frames are resized to 66x48 by bicubic. '
        'BasicAVSR makes any size itself.'
    ]
    own = net(lq[None])[0]
    assert torch.equal(read(tmp_path / 'out'), as_written(resize_bicubic(own, (48, 66))))
    assert run(tmp_path, net, images, scale='4') == []
    assert torch.equal(read(tmp_path / 'out'), as_written(own))


@torch.no_grad()
@pytest.mark.parametrize('network', ['LIIF', 'MetaSR'])
def test_image_networks_of_any_scale_in_tiles(network, tmp_path, images):
    """Tiles whose borders lie between HR pixels; the overlap is what such small networks see."""
    torch.manual_seed(0)
    arguments = {'LIIF': {'num_block': 1, 'num_hidden': 16}, 'MetaSR': {'num_block': 2, 'num_conv': 2, 'num_growth': 4}}
    net = build_network({'type': network, 'num_feat': 8, **arguments[network]}).eval()
    asked, frames = parse_output_size(scale='2.7'), {}
    for tile in (None, 8):
        settings = UpscaleSettings(tile=tile, tile_overlap=12)
        upscale(net, images, tmp_path / f'{tile}', settings, show_progress=False, output_size=asked)
        frames[tile] = read(tmp_path / f'{tile}').int()
    assert frames[8].shape == (3, 3, 43, 59)
    assert (frames[8] - frames[None]).abs().max() <= 1


def test_a_scale_of_the_network_itself(tmp_path):
    """A film gets even sizes by it too, and a scale that the weights are not trained for is said."""
    film = make_video(tmp_path / 'film.mp4', moving(3))  # 64x48
    net = build_network({'type': 'BasicAVSR', 'scale': 2.3, 'trained_scales': (3, 4), **SMALL}).eval()
    rounded, outside = run(tmp_path, net, film, name='a.mp4')
    assert rounded == 'frames are 148x110, not 147x110: the pixel format takes even sizes.'
    assert outside.startswith('BasicAVSR is trained for factors from 3 to 4')
    net.scale = 2.3  # as it was before
    assert run(tmp_path, net, film, name='pictures')[0].startswith('BasicAVSR is trained for factors from 3 to 4')
    assert read(tmp_path / 'pictures').shape == (3, 3, 110, 147)


@pytest.mark.parametrize('box', ['137x77', '192x108', '69x69'])
def test_pixels_are_square_in_a_box(box, tmp_path):
    """However the size is rounded."""
    film = make_video(tmp_path / 'film.mkv', moving(2), aspect=Fraction(16, 15))
    assert open_source(film).aspect == Fraction(16, 15)
    run(tmp_path, build_network({'type': 'Bicubic'}), film, name='out.mkv', fit=box)
    assert open_source(tmp_path / 'out.mkv').aspect in (None, 1)


def test_films(tmp_path):
    """Even sizes for 4:2:0; a picture keeps its shape on the screen; bicubic is that of the same size."""
    film = make_video(tmp_path / 'film.mp4', moving(3))  # 64x48
    net = build_network({'type': 'Bicubic'})
    assert run(tmp_path, net, film, name='a.mp4', scale='2.7') == [
        'frames are 174x130, not 173x130: the pixel format takes even sizes.'
    ]
    frame = next(iter(open_source(tmp_path / 'a.mp4')))
    assert frame.shape == (3, 130, 174)
    lq = next(iter(open_source(film)))
    assert (frame - resize_bicubic(lq, (130, 174)).clamp(0, 1)).abs().mean() < 0.02
    with av.open(str(tmp_path / 'a.mp4')) as container:
        assert container.streams.video[0].codec_context.sample_aspect_ratio in (None, 0, 1)
    (note,) = run(tmp_path, net, film, name='b.mp4', size='192x96')
    assert note == (
        'frames of 64x48 become 192x96, 3 times as wide and 2 times as high: the shape of its pixels is set so that '
        'the picture is shown in its own.'
    )
    with av.open(str(tmp_path / 'b.mp4')) as container:
        assert container.streams.video[0].codec_context.sample_aspect_ratio == Fraction(2, 3)
    (note,) = run(tmp_path, net, film, name='pictures', size='192x96')
    assert note.endswith('2 times as high: the picture is stretched.')
    with pytest.raises(InputError, match=r'frames of 129x96 cannot be yuv420p, which takes even sizes only'):
        run(tmp_path, net, film, name='c.mp4', size='129x96')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('--scale', '0'), '--scale is 0, but must be from 1 to 16'),
        (('--scale', '-2'), '--scale is -2, but must be from 1 to 16'),
        (('--scale', '0.5'), '--scale is 0.5, which would make HR frames smaller than LR ones, but must be from 1 to'),
        (('--scale', '17'), '--scale is 17, but must be from 1 to 16'),
        (('--scale', '2x0.5'), '--scale is 2x0.5, which would make HR frames smaller'),
        (('--scale', '16.0001'), '--scale is 16.0001, but must be from 1 to 16'),
        (('--scale', '2.5/2'), "--scale must read 2.7, 8/3 or, horizontally by vertically, 3x1.5, but is '2.5/2'"),
        (('--scale', '9' * 5000), '--scale must read 2.7, 8/3 or'),
        (('--scale', 'four'), "--scale must read 2.7, 8/3 or, horizontally by vertically, 3x1.5, but is 'four'"),
        (('--size', '1920'), "--size must read WIDTHxHEIGHT, as in 1920x1080, but is '1920'"),
        (('--size', '20x20'), r'has frames of 22x16, of which .* not smaller ones and not 20x20'),
        (('--fit', '9000x9000'), r'up to 16 times as high and as wide are made, not smaller ones and not 9000x6545'),
        (('--scale', '2', '--fit', '64x64'), '--scale and --fit each say the size; give one of them'),
    ],
)
def test_bad_input(arguments, message, images, tmp_path):
    with pytest.raises(InputError, match=message):
        upscale_command.main([str(images), '-o', str(tmp_path / 'out'), '--network', 'Bicubic', *arguments])
    assert not (tmp_path / 'out').exists()


@torch.no_grad()
def test_the_command(images, tmp_path, capsys):
    upscale_command.main(
        [str(images), '-o', str(tmp_path / 'out'), '--network', 'Bicubic', '--scale', '8/3', '--mode', 'stream']
    )
    lq = torch.stack(list(open_source(images)))
    expected = F.interpolate(lq, size=(43, 59), mode='bilinear')
    assert (read(tmp_path / 'out') / 255 - expected).abs().mean() < 0.1
    assert OutputSize(scale=Fraction(8, 3)) == parse_output_size('8/3')
