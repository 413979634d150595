"""Degradations: walks, frequencies, each step against a closed form, video compression, presets, checks of options."""

import cv2
import numpy as np
import pytest
from basicsr.utils import get_root_logger

from basicsr_plugins.data import degradation_video
from basicsr_plugins.data.degradation import degrade_clip, read_degradation
from basicsr_plugins.data.degradation_presets import DEFAULTS, PRESETS
from basicsr_plugins.data.degradation_steps import STEPS, choose, walk
from basicsr_plugins.data.degradation_video import Encoding, compress_clip
from basicsr_plugins.errors import InputError


def texture(number=5, h=64, w=64, sigma=2):
    """A smooth random texture that moves by a pixel per frame: (t, h, w, 3) uint8."""
    rng = np.random.default_rng(0)
    picture = cv2.GaussianBlur(rng.random((h + number, w, 3), dtype=np.float32), (0, 0), sigma)
    picture = np.rint(255 * (picture - picture.min()) / np.ptp(picture)).astype(np.uint8)
    return np.stack([picture[t : t + h] for t in range(number)])


def as_floats(frames):
    return [frame.astype(np.float32) / 255 for frame in frames]


def step(kind, **options):
    return read_degradation('here', [{'type': kind, **options}])[0]


def run(kind, frames, seed=0, size=(16, 16), **options):
    return STEPS[kind](as_floats(frames), step(kind, **options), np.random.default_rng(seed), size)


def psnr(frames, others):
    return -10 * np.log10(np.mean((np.stack(frames) - np.stack(others)) ** 2))


def test_walk_stays_in_its_range_and_its_steps_are_bounded():
    for seed in range(50):
        values = walk(np.random.default_rng(seed), 0.2, 3.0, 0.5, 100)
        assert values.min() >= 0.2
        assert values.max() <= 3.0
        assert 0.2 < np.abs(np.diff(values)).max() <= 0.5
    assert walk(np.random.default_rng(0), 0, 2, 0.1, 3, start=1.0)[0] == 1


@pytest.mark.parametrize(('kind', 'key'), [('blur', 'kinds'), ('resize', 'directions')])
def test_kinds_are_as_frequent_as_their_weights(kind, key):
    weights, rng = DEFAULTS[kind][key], np.random.default_rng(0)
    chosen = [choose(rng, weights) for _ in range(10_000)]
    for name, weight in weights.items():
        assert chosen.count(name) / 10_000 == pytest.approx(weight, abs=3 * np.sqrt(weight * (1 - weight) / 10_000))


@pytest.mark.parametrize('kind', DEFAULTS['blur']['kinds'])
def test_blur_keeps_a_constant_and_lowers_contrast(kind):
    frames = texture()
    constant = np.full((3, 32, 32, 3), 100, np.uint8)
    np.testing.assert_allclose(run('blur', constant, kinds={kind: 1}), np.stack(as_floats(constant)), atol=1e-5)
    blurred = run('blur', frames, kinds={kind: 1}, sigma=[2, 3], omega=[0.4, 0.5])
    assert len(blurred) == len(frames)
    assert np.std(blurred) < 0.97 * np.std(as_floats(frames))


def test_isotropic_blur_has_the_deviation_that_was_asked_for():
    point = np.zeros((1, 41, 41, 3), np.uint8)
    point[0, 20, 20] = 255
    spread = run('blur', point, size=[21, 21], kinds={'iso': 1}, sigma=[2, 2])[0][..., 0]
    place = np.arange(41) - 20
    assert (spread.sum(0) * place**2).sum() / spread.sum() == pytest.approx(4, rel=1e-3)


def test_unsharp_of_a_constant_is_the_constant_and_edges_gain_contrast():
    constant = np.full((2, 64, 64, 3), 77, np.uint8)
    np.testing.assert_allclose(run('unsharp', constant), np.stack(as_floats(constant)), atol=1e-6)
    edge = np.full((1, 128, 128, 3), 80, np.uint8)
    edge[:, :, 64:] = 160
    sharpened = run('unsharp', edge)[0]
    assert sharpened[64, 66, 0] > 165 / 255
    assert sharpened[64, 61, 0] < 75 / 255


def test_resize_walks_in_its_range_with_even_sizes():
    frames = texture(12, 200, 200)
    for seed, (directions, low, high) in enumerate(
        [({'up': 1}, 200, 300), ({'down': 1}, 80, 200), ({'keep': 1}, 150, 250)]
    ):
        sizes = [frame.shape[:2] for frame in run('resize', frames, seed, directions=directions, scale=[0.4, 1.5])]
        assert len(sizes) == 12
        assert all(h == w and h % 2 == 0 for h, w in sizes)
        assert low - 40 <= min(sizes)[0]
        assert max(sizes)[0] <= high + 40
    assert len(set(sizes)) > 1  # of `keep`, too: the factor starts at 1 and walks


def test_noise_has_the_deviation_that_was_asked_for():
    grey = np.full((2, 128, 128, 3), 128, np.uint8)
    noisy = np.stack(run('noise', grey, gaussian_prob=1, grey_prob=0, gaussian=[10, 10])) - 128 / 255
    assert noisy.std() == pytest.approx(10 / 255, rel=0.03)
    assert abs(np.corrcoef(noisy[0, ..., 0].ravel(), noisy[0, ..., 1].ravel())[0, 1]) < 0.05
    same = np.stack(run('noise', grey, gaussian_prob=1, grey_prob=1, gaussian=[10, 10]))
    np.testing.assert_allclose(same[..., 0], same[..., 2], atol=1e-6)
    # Poisson: v = 128 / 255 with one distinct value, u = 1, so the deviation is scale * sqrt(v)
    shot = np.stack(run('noise', grey, gaussian_prob=0, grey_prob=0, poisson=[0.1, 0.1])) - 128 / 255
    assert shot.std() == pytest.approx(0.1 * np.sqrt(128 / 255), rel=0.03)


def test_jpeg_keeps_the_order_of_colours_and_loses_more_at_low_quality():
    red = np.zeros((1, 32, 32, 3), np.uint8)
    red[..., 0] = 255
    assert run('jpeg', red, quality=[95, 95])[0].mean((0, 1)) == pytest.approx([1, 0, 0], abs=0.01)
    frames = texture()
    good, bad = (psnr(run('jpeg', frames, quality=[q, q]), as_floats(frames)) for q in (95, 30))
    assert good > bad + 3


def test_shrink_by_area_is_the_mean_of_blocks():
    frames = texture()
    small = run('shrink', frames, filters=['area'])
    np.testing.assert_allclose(small, frames.reshape(5, 16, 4, 16, 4, 3).mean((2, 4)) / 255, atol=1e-5)


@pytest.mark.parametrize('codec', ['libx264', 'libx265', 'mpeg4', 'h264'])
def test_compression_keeps_frames_in_order_and_colours_and_loses_more_at_a_higher_crf(codec):
    frames = as_floats(texture(6, 49, 38))  # odd and smaller than encoders take
    fine, coarse = (compress_clip(frames, Encoding(codec, crf=crf, speed='veryfast')) for crf in (18, 35))
    assert [frame.shape for frame in fine] == [(49, 38, 3)] * 6
    assert psnr(fine, frames) > psnr(coarse, frames) + 3
    assert psnr(fine, frames) > psnr(fine[1:] + fine[:1], frames) + 3
    colour = np.full((64, 64, 3), (0.8, 0.3, 0.1), np.float32)
    coded = compress_clip([colour] * 3, Encoding(codec, crf=20))
    np.testing.assert_allclose(coded, [colour] * 3, atol=0.02)


@pytest.mark.parametrize('codec', ['libx264', 'libx265', 'mpeg4'])
def test_compression_gives_the_same_again_whatever_memory_held(codec):
    frames = as_floats(texture(9, 36, 40))
    results, held = set(), []
    for seed in range(6):
        held.append(np.random.default_rng(seed).random(20_000 * seed + 100))
        results.add(np.stack(compress_clip(frames, Encoding(codec, crf=25, speed='faster'))).tobytes())
    assert len(results) == 1


def test_bit_rate_decides_when_it_is_given():
    frames = as_floats(texture(8, 128, 128, sigma=4))
    low, high = (compress_clip(frames, Encoding(crf=None, bit_rate=rate, frame_rate=1)) for rate in (5_000, 200_000))
    assert psnr(high, frames) > psnr(low, frames) + 1


def test_a_codec_that_is_not_built_in_is_replaced_and_said_once(monkeypatch, caplog):
    def refuse(name, mode):
        raise ValueError(name)

    monkeypatch.setattr(degradation_video.av, 'Codec', refuse)
    logger = get_root_logger()
    logger.addHandler(caplog.handler)  # the toolbox's logger does not propagate
    degradation_video.available.cache_clear()
    assert [degradation_video.available('libx264') for _ in range(3)] == ['mpeg4'] * 3
    degradation_video.available.cache_clear()
    logger.removeHandler(caplog.handler)
    assert [record.getMessage() for record in caplog.records] == [
        'This build of FFmpeg cannot encode libx264; mpeg4 takes its place.'
    ]


@pytest.mark.parametrize('preset', PRESETS)
def test_presets_give_8_bit_lr_of_every_frame_the_same_for_the_same_seed(preset):
    frames = texture(6, 128, 128, sigma=8)
    steps = read_degradation('here', preset)
    for seed in range(4):
        first, again = (degrade_clip(frames, steps, np.random.default_rng(seed), 4) for _ in range(2))
        assert first.shape == (6, 32, 32, 3)
        assert first.dtype == np.uint8
        np.testing.assert_array_equal(first, again)
        # it is still the same film
        clean = frames.reshape(6, 32, 4, 32, 4, 3).mean((2, 4))
        assert np.corrcoef(first.ravel(), clean.ravel())[0, 1] > 0.5
    assert (first != degrade_clip(frames, steps, np.random.default_rng(9), 4)).any()


def test_the_mirrored_half_of_a_clip_is_degraded_differently():
    frames = texture(5, 128, 128)
    steps = read_degradation('here', 'realbasicvsr')
    lqs = degrade_clip(np.concatenate([frames, frames[::-1]]), steps, np.random.default_rng(0), 4)
    assert len(lqs) == 10
    assert all((lqs[t] != lqs[9 - t]).mean() > 0.1 for t in range(5))


def test_the_global_generator_is_left_as_it_was():
    np.random.seed(5)  # noqa: NPY002
    expected = np.random.random(3)  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    degrade_clip(texture(), read_degradation('here', [{'type': 'noise'}]), np.random.default_rng(0), 4)
    np.testing.assert_array_equal(np.random.random(3), expected)  # noqa: NPY002


def test_probabilities_and_random_order():
    frames = texture()
    never = [{'type': 'noise', 'prob': 0}, {'type': 'shrink', 'filters': ['area']}]
    clean = degrade_clip(frames, read_degradation('here', never), np.random.default_rng(0), 4)
    np.testing.assert_allclose(clean, frames.reshape(5, 16, 4, 16, 4, 3).mean((2, 4)), atol=0.51)
    # noise of 20 before the shrink by area has a quarter of its deviation afterwards
    groups = [
        [{'type': 'shrink', 'filters': ['area']}],
        [step('noise', gaussian_prob=1, grey_prob=0, gaussian=[20, 20])],
    ]
    steps = read_degradation('here', [{'type': 'shuffle', 'groups': groups}])
    left = [
        (degrade_clip(frames // 2 + 64, steps, np.random.default_rng(seed), 4) * 1.0 - clean / 2 - 64).std()
        for seed in range(20)
    ]
    assert {round(value / 5) for value in left} == {1, 4}


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('flim', "did you mean 'film'"),
        ([], 'name of a preset or a list'),
        ([{'prob': 1}], 'must have a type'),
        ([{'type': 'blurr'}], "did you mean 'blur'"),
        ([{'type': ['blur']}], "no type \\['blur'\\]"),
        ([{'type': 'blur', 'sigma': None}], 'must be a range'),
        ([{'type': 'video', 'speed': ['fast']}], 'speed must be a range of ultrafast'),
        ([{'type': 'video', 'speed': ['slow', 'ultrafast']}], 'speed must be a range of ultrafast'),
        ([{'type': 'blur', 'sigmas': [1, 2]}], "did you mean 'sigma'"),
        ([{'type': 'blur', 'sigma': [2, 1]}], 'must be a range'),
        ([{'type': 'blur', 'kinds': {'isso': 1}}], "did you mean 'iso'"),
        ([{'type': 'blur', 'kinds': {'iso': 0}}], 'weight above 0'),
        ([{'type': 'noise', 'prob': 2}], r'prob must lie in \[0, 1\]'),
        ([{'type': 'noise', 'prob': 'often'}], r'prob must lie in \[0, 1\]'),
        ([{'type': 'blur', 'size': [8, 20]}], 'odd whole numbers'),
        ([{'type': 'shrink', 'filters': ['cubic']}], "did you mean 'bicubic'"),
        ([{'type': 'video', 'codecs': {'libx266': 1}}], "did you mean 'libx26"),
        ([{'type': 'video', 'bit_rate': [1, 2]}], 'either crf or bit_rate'),
        ([{'type': 'video', 'speed': ['fast', 'snail']}], "no 'snail'"),
        ([{'type': 'blur', 'sigma': 'x'}], 'must be a range'),
        ([{'type': 'blur', 'sigma': [1, 'x']}], 'must be a range'),
        ([{'type': 'blur', 'kinds': {'iso': 'x'}}], 'weight above 0'),
        ([{'type': 'blur', 'kinds': 5}], 'must read as in'),
        ([{'type': 'jpeg', 'quality': [0, 500]}], r'must be a range \[low, high\] from 1 to 100'),
        ([{'type': 'video', 'crf': [18, 52]}], r'must be a range \[low, high\] from 0 to 51'),
        ([{'type': 'video', 'frame_rate': 0}], 'must be a number from 1 to 1000'),
        ([{'type': 'video', 'lead_in': 'yes'}], 'must be true or false'),
        ([{'type': 'resize', 'scale': [0, 0]}], 'must be a range'),
        ([{'type': 'resize', 'scale': [1.5, 2]}], 'must be a range around 1'),
        ([{'type': 'noise', 'gaussian_prob': float('nan')}], 'must be a number'),
        ([{'type': 'shuffle', 'groups': 5}], 'groups must hold'),
        ([{'type': 'shuffle', 'groups': [5]}], 'groups must hold'),
        ([{'type': 'shuffle'}], 'groups must hold'),
        ([{'type': 'shuffle', 'groups': [[{'type': 'nose'}]]}], "did you mean 'noise'"),
    ],
)
def test_wrong_options_stop_early(option, message):
    with pytest.raises(InputError, match=message):
        read_degradation('datasets: clips', option)
