"""Frames from images of every kind, and to PNGs."""

import os

import av
import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from basicsr_plugins.errors import InputError
from basicsr_plugins.video.images import natural_key
from basicsr_plugins.video.opening import VideoSettings, open_source, open_target


def picture(seed, h=12, w=20, dtype=np.uint8, channels=3):
    shape = (h, w, channels) if channels > 1 else (h, w)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def write(folder, names, **kwargs):
    folder.mkdir(exist_ok=True)
    images = [picture(seed, **kwargs) for seed in range(len(names))]
    for name, image in zip(names, images):
        assert cv2.imwrite(str(folder / name), image)
    return images


def as_tensor(image):
    """BGR of OpenCV -> (3, h, w) RGB in [0, 1], by another way than the code's."""
    rgb = np.stack([image[..., c] for c in (2, 1, 0)]).astype(np.float64)
    return torch.from_numpy((rgb / np.iinfo(image.dtype).max).astype(np.float32))


def nearest(frame, scale):
    return frame.repeat_interleave(scale, 1).repeat_interleave(scale, 2)


def upscale(source, path, scale=2, stop=None, before=None, **kwargs):
    with open_target(path, source, scale, **kwargs) as target:
        for index, frame in enumerate(source):
            if index == stop:
                raise KeyboardInterrupt
            if before is not None:
                before(index, target)
            if index >= target.num_done:
                target.write(nearest(frame, scale))
    return target


def test_names_are_in_natural_order(tmp_path):
    names = ['frame10.png', 'frame2.png', 'frame1.png', 'Frame3.png']
    assert sorted(names, key=natural_key) == ['frame1.png', 'frame2.png', 'Frame3.png', 'frame10.png']
    images = write(tmp_path / 'clip', names)
    (tmp_path / 'clip' / 'notes.txt').write_text('no image')
    for where in (tmp_path / 'clip', str(tmp_path / 'clip' / '*.png')):
        source = open_source(where)
        assert source.num_frame == 4
        assert source.size == (12, 20)
        frames = list(source)
        assert source.exhausted
        for index, frame in zip((2, 1, 3, 0), frames):
            torch.testing.assert_close(frame, as_tensor(images[index]), rtol=0, atol=1e-7)
    assert len(list(open_source(tmp_path / 'clip' / 'frame2.png'))) == 1
    assert open_source(tmp_path / 'clip' / 'frame[12].png').num_frame == 2


@pytest.mark.parametrize('suffix', ['.png', '.tif', '.webp', '.bmp', '.jpg'])
def test_formats_of_8_bits(tmp_path, suffix):
    folder = tmp_path / 'clip'
    folder.mkdir()
    image = cv2.resize(picture(0, 3, 5), (40, 24), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(folder / f'0{suffix}'), image, [cv2.IMWRITE_WEBP_QUALITY, 101, cv2.IMWRITE_JPEG_QUALITY, 100])
    source = open_source(folder)
    assert source.bit_depth == 8
    assert (next(iter(source)) - as_tensor(image)).abs().mean() * 255 < (2 if suffix == '.jpg' else 1e-3)


@pytest.mark.parametrize('value', [255, -40, np.nan, np.inf])
def test_floats_that_are_no_image(value, tmp_path):
    image = np.full((4, 5, 3), 0.5, np.float32)
    cv2.imwrite(str(tmp_path / 'a.tif'), image)
    assert len(list(open_source(tmp_path))) == 1
    image[1, 2] = value
    cv2.imwrite(str(tmp_path / 'a.tif'), image)
    with pytest.raises(InputError, match=r'a\.tif has floats that are not from 0 to 1, or NaN; convert it'):
        list(open_source(tmp_path))


@pytest.mark.parametrize('suffix', ['.png', '.tif'])
def test_16_bits_are_kept(tmp_path, suffix):
    (image,) = write(tmp_path / 'clip', [f'0{suffix}'], dtype=np.uint16)
    source = open_source(tmp_path / 'clip')
    assert source.bit_depth == 16
    torch.testing.assert_close(next(iter(source)), as_tensor(image), rtol=0, atol=1e-7)
    upscale(source, tmp_path / 'out', scale=1)
    back = cv2.imread(str(tmp_path / 'out' / '0.png'), cv2.IMREAD_UNCHANGED)
    assert back.dtype == np.uint16
    np.testing.assert_array_equal(back, image)
    upscale(source, tmp_path / 'out8', scale=1, settings=VideoSettings(bit_depth=8))
    back = cv2.imread(str(tmp_path / 'out8' / '0.png'), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(back, (image / 257.0).round().astype(np.uint8))


def test_grey_and_alpha(tmp_path):
    (grey,) = write(tmp_path / 'grey', ['0.png'], channels=1)
    frame = next(iter(open_source(tmp_path / 'grey')))
    torch.testing.assert_close(frame, torch.from_numpy(grey / 255).float().expand(3, -1, -1), rtol=0, atol=1e-7)
    (rgba,) = write(tmp_path / 'rgba', ['0.png'], channels=4)
    source = open_source(tmp_path / 'rgba')
    torch.testing.assert_close(next(iter(source)), as_tensor(rgba[..., :3]), rtol=0, atol=1e-7)
    assert len(source.notes) == 1
    assert 'alpha' in source.notes[0]
    assert open_source(tmp_path / 'grey').notes == []


@pytest.mark.parametrize(('suffix', 'mode'), [('png', 'RGBA'), ('png', 'LA'), ('tif', 'RGBA'), ('webp', 'RGBA')])
@pytest.mark.parametrize('orientation', [None, 6])
def test_images_with_alpha_are_decoded_once(tmp_path, monkeypatch, suffix, mode, orientation):
    """Opaque or not; twice only where EXIF turns them, which OpenCV does without alpha only."""
    (tmp_path / 'clip').mkdir()
    options = {'lossless': True} if suffix == 'webp' else {}
    if orientation:
        options['exif'] = Image.Exif()
        options['exif'][0x112] = orientation
    pictures = [Image.fromarray(picture(i, channels=4), 'RGBA').convert(mode) for i in range(3)]
    pictures[0].putalpha(255)
    for i, one in enumerate(pictures):
        one.save(tmp_path / 'clip' / f'{i}.{suffix}', **options)
    decoded = []
    decode = cv2.imdecode
    monkeypatch.setattr(cv2, 'imdecode', lambda *args: decoded.append(args) or decode(*args))
    source = open_source(tmp_path / 'clip')
    assert (len(decoded), source.notes) == (2 if orientation and suffix != 'tif' else 1, [])
    decoded.clear()
    frames = list(source)
    assert len(decoded) == (5 if orientation and suffix != 'tif' else 3)
    assert [note.split(' has')[0] for note in source.notes] == [str(tmp_path / 'clip' / f'1.{suffix}')]
    for file, frame in zip(source.files, frames):
        plain = decode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR)  # turned, without alpha
        torch.testing.assert_close(frame, as_tensor(plain), rtol=0, atol=1e-7)


def test_what_cannot_be_read_is_named(tmp_path):
    folder = tmp_path / 'clip'
    write(folder, ['0.png', '1.png', '2.png'])
    cv2.imwrite(str(folder / '1.png'), picture(1, 14, 20))
    with pytest.raises(InputError, match=r'1\.png is 20x14, but 0\.png is 20x12'):
        list(open_source(folder))
    data = (folder / '2.png').read_bytes()
    (folder / '1.png').write_bytes(data[: len(data) // 2])
    frames = iter(open_source(folder))
    next(frames)
    with pytest.raises(InputError, match=r'1\.png is damaged'):
        next(frames)
    (folder / '0.png').write_text('text')
    with pytest.raises(InputError, match=r'0\.png is damaged or not an image'):
        open_source(folder)
    (tmp_path / 'empty').mkdir()
    for where, message in (
        (tmp_path / 'empty', 'there are no images'),
        (tmp_path / 'empty' / '*.png', 'there are no images'),
        (tmp_path / 'absent', 'there is no file or folder'),
    ):
        with pytest.raises(InputError, match=message):
            open_source(where)


def test_names_of_the_output_are_the_sources(tmp_path):
    images = write(tmp_path / 'clip', ['b7.png', 'a.jpg'])
    upscale(open_source(tmp_path / 'clip'), tmp_path / 'out', scale=4)
    assert sorted(os.listdir(tmp_path / 'out')) == ['a.png', 'b7.png']
    back = cv2.imread(str(tmp_path / 'out' / 'b7.png'))
    np.testing.assert_array_equal(back, images[0].repeat(4, 0).repeat(4, 1))
    write(tmp_path / 'twins', ['a.png', 'a.tif'])
    target = upscale(open_source(tmp_path / 'twins'), tmp_path / 'numbered')
    assert sorted(os.listdir(tmp_path / 'numbered')) == ['00000000.png', '00000001.png']
    assert len(target.notes) == 1


def test_interrupted_and_resumed(tmp_path):
    write(tmp_path / 'clip', [f'{i}.png' for i in range(12)])
    source = open_source(tmp_path / 'clip')
    upscale(source, tmp_path / 'whole')
    with pytest.raises(KeyboardInterrupt):
        upscale(source, tmp_path / 'out', stop=7)
    assert not (tmp_path / 'out').exists()
    frames = tmp_path / '.out.parts' / 'frames'
    (frames / '.7.png.part').write_bytes(b'half')  # what a kill leaves
    with pytest.raises(InputError, match='interrupted run left'):
        open_target(tmp_path / 'out', source, 2)
    with pytest.raises(InputError, match='bit_depth is 16 now, but was not set'):
        open_target(tmp_path / 'out', source, 2, VideoSettings(bit_depth=16), resume=True)
    with pytest.raises(InputError, match='scale is 4 now, but was 2'):
        open_target(tmp_path / 'out', source, 4, resume=True)
    assert upscale(source, tmp_path / 'out', resume=True).num_done == 7
    assert sorted(os.listdir(tmp_path)) == ['clip', 'out', 'whole']
    for i in range(12):
        assert (tmp_path / 'out' / f'{i}.png').read_bytes() == (tmp_path / 'whole' / f'{i}.png').read_bytes()
    with pytest.raises(InputError, match='is there already'):
        open_target(tmp_path / 'out', source, 2, resume=True)
    write(tmp_path / 'other', ['5.png'])
    upscale(open_source(tmp_path / 'other'), tmp_path / 'out', force=True)
    assert os.listdir(tmp_path / 'out') == ['5.png']


def test_full_disk(tmp_path):
    write(tmp_path / 'clip', ['0.png', '1.png'])
    source = open_source(tmp_path / 'clip')

    def fill(index, target):
        if index == 1:
            os.symlink('/dev/full', target.parts / 'frames' / '.1.png.part')

    with pytest.raises(
        InputError, match=r'1\.png cannot be written: the disk of .* is full \(No space left on device; it takes'
    ):
        upscale(source, tmp_path / 'out', before=fill)
    assert upscale(source, tmp_path / 'out', resume=True).num_done == 1


def test_images_to_video_and_back(tmp_path):
    images = write(tmp_path / 'clip', [f'{i}.png' for i in range(5)], h=24, w=32)
    source = open_source(tmp_path / 'clip')
    settings = VideoSettings(crf=0, pix_fmt='yuv444p', fps='30000/1001')
    upscale(source, tmp_path / 'out.mp4', settings=settings)
    with av.open(str(tmp_path / 'out.mp4')) as container:
        times = [frame.pts * frame.time_base * 30000 / 1001 for frame in container.decode(video=0)]
    assert times == [0, 1, 2, 3, 4]
    video = open_source(tmp_path / 'out.mp4')
    assert (video.colour.matrix, video.colour.full_range, video.num_frame) == (1, False, 5)
    for image, frame in zip(images, video):
        assert (frame - nearest(as_tensor(image), 2)).abs().mean() * 255 < 1
    upscale(video, tmp_path / 'frames', scale=1)
    assert sorted(os.listdir(tmp_path / 'frames')) == [f'{i:08d}.png' for i in range(5)]
    back = cv2.imread(str(tmp_path / 'frames' / '00000003.png'))
    assert np.abs(back.astype(int) - images[3].repeat(2, 0).repeat(2, 1)).mean() < 1.2


def test_16_bit_images_make_a_10_bit_video(tmp_path):
    write(tmp_path / 'clip', ['0.png'], h=24, w=32, dtype=np.uint16)
    upscale(open_source(tmp_path / 'clip'), tmp_path / 'out.mp4')
    assert open_source(tmp_path / 'out.mp4').format.name == 'yuv420p10le'


def test_other_suffixes_are_refused(tmp_path):
    write(tmp_path / 'clip', ['0.png'])
    with pytest.raises(InputError, match=r'\.png is not written'):
        open_target(tmp_path / 'out.png', open_source(tmp_path / 'clip'), 2)


def test_force_does_not_overwrite_what_is_not_a_folder_of_pngs(tmp_path):
    write(tmp_path / 'clip', ['0.png'])
    source = open_source(tmp_path / 'clip' / '*.png')
    with pytest.raises(InputError, match='is where the frames come from'):
        open_target(tmp_path / 'clip', source, 2, force=True)
    write(tmp_path / 'mine', ['1.png'])
    (tmp_path / 'mine' / 'thesis.tex').touch()
    with pytest.raises(InputError, match=r'holds more than PNGs \(thesis\.tex\)'):
        open_target(tmp_path / 'mine', source, 2, force=True)
    (tmp_path / 'film.mp4').mkdir()
    with pytest.raises(InputError, match=r'film\.mp4 is a folder'):
        open_target(tmp_path / 'film.mp4', source, 2, force=True)
    (tmp_path / 'file').touch()
    with pytest.raises(InputError, match='file is a file'):
        open_target(tmp_path / 'file', source, 2, force=True)
    assert sorted(os.listdir(tmp_path)) == ['clip', 'file', 'film.mp4', 'mine']
