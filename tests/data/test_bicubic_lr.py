"""Bicubic LR clips: MATLAB's numbers, resumable, never a mixture."""

from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch

from basicsr_plugins.data import bicubic_lr
from basicsr_plugins.data.bicubic_lr import bicubic_downsample, make_bicubic_lr
from basicsr_plugins.errors import InputError
from basicsr_plugins.ops.bicubic import resize_bicubic
from basicsr_plugins.scales import scaled_size


@pytest.fixture
def clips(tmp_path):
    source = tmp_path / 'GT'
    rng = np.random.default_rng(0)
    for name, size in (('a', (24, 36, 3)), ('b', (27, 38, 3))):
        (source / name).mkdir(parents=True)
        for i in range(3):
            cv2.imwrite(str(source / name / f'{i:08d}.png'), rng.integers(0, 256, size, np.uint8))
    return source


def matlab_bicubic(signal, scale):
    """MATLAB's `imresize` along the first axis, written out: antialiased cubic, mirrored borders, float64."""
    length = len(signal)
    result = []
    for i in range(length // scale):
        centre = (i + 0.5) * scale - 0.5
        taps = np.arange(int(centre) - 3 * scale, int(centre) + 3 * scale + 1)
        x = np.abs(centre - taps) / scale
        near = 1.5 * x**3 - 2.5 * x**2 + 1
        far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        weight = np.where(x <= 1, near, np.where(x <= 2, far, 0))
        mirrored = np.where(taps < 0, -1 - taps, np.where(taps >= length, 2 * length - 1 - taps, taps))
        used = weight != 0
        result.append(np.tensordot(weight[used] / weight.sum(), signal[mirrored[used]], 1))
    return np.stack(result)


@pytest.mark.parametrize('scale', [2, 3, 4])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_follows_matlab(scale, dtype):
    image = np.random.default_rng(1).integers(0, np.iinfo(dtype).max + 1, (24, 36, 3), dtype)
    rows = matlab_bicubic(image.astype(np.float64), scale)
    expected = matlab_bicubic(rows.transpose(1, 0, 2), scale).transpose(1, 0, 2).clip(0, np.iinfo(dtype).max)
    lq = bicubic_downsample(image, scale)
    assert lq.dtype == dtype
    assert lq.shape == (24 // scale, 36 // scale, 3)
    assert np.abs(lq - expected).max() < 0.51


def test_real_clip_is_within_one_grey_level_of_matlab(shared):
    for index in (0, 17, 33):
        gt, lq = (cv2.imread(str(shared / f'data/Vid4/{kind}/city/{index:08d}.png')) for kind in ('GT', 'BIx4'))
        difference = np.abs(bicubic_downsample(gt, 4).astype(int) - lq)
        assert difference.max() <= 1
        assert difference.mean() < 0.01


def test_makes_every_frame_from_several_processes_and_states_the_crop(clips, tmp_path, capsys):
    assert make_bicubic_lr(clips, tmp_path / 'X4', 4, num_worker=2) == 6
    for path in clips.rglob('*.png'):
        gt = cv2.imread(str(path))
        h, w = (side // 4 * 4 for side in gt.shape[:2])
        lq = cv2.imread(str(tmp_path / 'X4' / path.relative_to(clips)))
        assert np.array_equal(lq, bicubic_downsample(gt[:h, :w], 4))
    out = capsys.readouterr().out
    assert out.count('b: 38x27 is cropped to 36x24 before shrinking') == 1
    assert 'a: ' not in out


@pytest.mark.parametrize(('scale', 'size'), [(2.5, (25, 38)), ((1.5, Fraction(8, 3)), (27, 37))])
def test_scales_that_are_not_whole(scale, size, clips, tmp_path, capsys):
    """The frames are cropped to the LR frame's scaled size, and shrunk to it by MATLAB's weights."""
    make_bicubic_lr(clips, tmp_path / 'LR', scale, num_worker=0)
    lq = cv2.imread(str(tmp_path / 'LR' / 'b' / '00000000.png'))
    assert scaled_size(lq.shape[:2], scale) == size
    assert f'b: 38x27 is cropped to {size[1]}x{size[0]}' in capsys.readouterr().out
    image = cv2.imread(str(clips / 'b' / '00000000.png'))[: size[0], : size[1]]
    frame = torch.from_numpy(image).permute(2, 0, 1).float()
    expected = resize_bicubic(frame, lq.shape[:2]).permute(1, 2, 0).numpy().clip(0, 255)
    assert np.abs(lq - expected).max() < 0.51


def test_gray_and_other_suffixes(tmp_path):
    (tmp_path / 'GT' / 'a').mkdir(parents=True)
    gray = np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8)
    cv2.imwrite(str(tmp_path / 'GT' / 'a' / '0.bmp'), gray)
    make_bicubic_lr(tmp_path / 'GT', tmp_path / 'X2', 2, num_worker=0)
    lq = cv2.imread(str(tmp_path / 'X2' / 'a' / '0.png'), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(lq, bicubic_downsample(gray, 2))


def test_interrupted_run_resumes(clips, tmp_path, monkeypatch):
    output = tmp_path / 'X2'
    made = []

    def interrupted(gt, lq, scale, degradation):
        made.append(lq.relative_to(output).as_posix())
        if len(made) == 4:
            lq.with_name(f'.{lq.name}.1.part').write_bytes(b'half a fra')
            raise KeyboardInterrupt
        return make_frame(gt, lq, scale, degradation)

    make_frame = bicubic_lr._make_frame
    monkeypatch.setattr(bicubic_lr, '_make_frame', interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_bicubic_lr(clips, output, 2, num_worker=0)
    assert len(list(output.rglob('0*.png'))) == 3
    assert make_bicubic_lr(clips, output, 2, num_worker=0) == 3
    assert made[4:] == ['b/00000000.png', 'b/00000001.png', 'b/00000002.png']

    monkeypatch.undo()
    make_bicubic_lr(clips, tmp_path / 'undisturbed', 2, num_worker=0)
    for path in (tmp_path / 'undisturbed').rglob('0*.png'):
        assert (output / path.relative_to(tmp_path / 'undisturbed')).read_bytes() == path.read_bytes()
    assert not list(output.rglob('*.part'))


def test_refuses_to_mix(clips, tmp_path):
    output = tmp_path / 'LR'
    make_bicubic_lr(clips, output, 4, num_worker=0)
    before = {path: path.read_bytes() for path in output.rglob('*.png')}
    with pytest.raises(InputError, match=r'LR was begun with other input \(scale was 4, is 2\)'):
        make_bicubic_lr(clips, output, 2, num_worker=0)
    clips.rename(tmp_path / 'other')
    with pytest.raises(InputError, match=r'\(source was .*GT, is .*other\)'):
        make_bicubic_lr(tmp_path / 'other', output, 4, num_worker=0)
    with pytest.raises(InputError, match='other holds files of something else'):
        make_bicubic_lr(output, tmp_path / 'other', 4, num_worker=0)
    assert {path: path.read_bytes() for path in output.rglob('*.png')} == before


def test_unusable_input_is_named(clips, tmp_path):
    with pytest.raises(InputError, match=r'the scale is 17, but must be from 1 to 16'):
        make_bicubic_lr(clips, tmp_path / 'LR', 17)
    with pytest.raises(InputError, match='GT/LR lies in its own source'):
        make_bicubic_lr(clips, clips / 'LR', 4)
    frame = clips / 'a' / '00000001.png'
    cv2.imwrite(str(frame), np.zeros((7, 40, 3), np.uint8))
    with pytest.raises(InputError, match=r'a/00000001\.png is 40x7, too small to shrink by 4'):
        make_bicubic_lr(clips, tmp_path / 'small', 4, num_worker=0)
    frame.write_bytes(b'no image')
    with pytest.raises(InputError, match=r'a/00000001\.png cannot be decoded'):
        make_bicubic_lr(clips, tmp_path / 'damaged', 4, num_worker=1)


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_smallest_frame_that_is_allowed(scale):
    image = np.full((2 * scale, 2 * scale, 3), 77, np.uint8)
    assert np.array_equal(bicubic_downsample(image, scale), np.full((2, 2, 3), 77, np.uint8))
