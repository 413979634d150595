"""tOF on clips whose motion is known."""

import cv2
import numpy as np
import pytest
from basicsr.metrics import calculate_metric

from basicsr_plugins.errors import InputError
from basicsr_plugins.metrics.tof import calculate_tof

H, W, MARGIN = 96, 128, 24


@pytest.fixture(scope='module')
def texture():
    """A picture with detail at all places, larger than a frame by a margin on each side, (h, w, 3), uint8."""
    noise = np.random.default_rng(0).random((H + 2 * MARGIN, W + 2 * MARGIN, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    return (255 * (smooth - smooth.min()) / (smooth.max() - smooth.min())).round().astype(np.uint8)


def view(texture, x, y):
    """The frame whose content lies (x, y) px right and below of where it is in the middle of the texture."""
    matrix = np.float32([[1, 0, x - MARGIN], [0, 1, y - MARGIN]])
    return cv2.warpAffine(texture, matrix, (W, H), flags=cv2.INTER_CUBIC)


def moving(texture, x, y, t=4):
    """(t, h, w, 3): content that moves by (x, y) px from each frame to the next."""
    return np.stack([view(texture, i * x, i * y) for i in range(t)])


def tof(restored, true, **options):
    return calculate_metric({'img': restored, 'img2': true}, {'type': 'calculate_tof', 'crop_border': 8, **options})


def test_equal_clips_move_equally(texture):
    clip = moving(texture, 2, 1)
    assert tof(clip, clip.copy()) == 0


@pytest.mark.parametrize(
    ('motion', 'true_motion', 'distance'),
    [
        ((2, 0), (0, 0), 2.0),
        ((0, 0), (0, 3), 3.0),
        ((3, 1), (0, 5), 5.0),  # a 3-4-5 triangle: its two shorter sides would add to 7
        ((-1, 2), (2, -2), 5.0),
        ((1.5, 0), (1, 0), 0.5),
        ((0.25, 1), (0.25, 1.5), 0.5),
    ],
)
def test_difference_of_two_known_motions_is_the_length_of_their_difference(texture, motion, true_motion, distance):
    measured = tof(moving(texture, *motion), moving(texture, *true_motion))
    assert measured == pytest.approx(distance, abs=0.05)


def test_a_clip_that_jitters_is_worse_than_one_that_is_off_by_a_constant(texture):
    """Frames shifted alike move as the truth does; the same shifts with alternating sign do not."""
    true = moving(texture, 1, 0, t=5)
    shifted = np.stack([view(texture, i + 0.5, 0) for i in range(5)])
    jittering = np.stack([view(texture, i + 0.5 * (-1) ** i, 0) for i in range(5)])
    assert tof(shifted, true) < 0.05
    assert tof(jittering, true) == pytest.approx(1.0, abs=0.05)  # its motion is 0 and 2 px in turn, and the truth 1 px


def test_noise_that_flickers_is_worse_than_noise_that_moves_along(texture):
    rng = np.random.default_rng(1)
    true = moving(texture, 1, 0)
    noisy_texture = np.clip(texture + rng.normal(0, 12, texture.shape), 0, 255).astype(np.uint8)
    flickering = np.clip(true + rng.normal(0, 12, true.shape), 0, 255).astype(np.uint8)
    assert tof(flickering, true) > 1.5 * tof(moving(noisy_texture, 1, 0), true) > 0


def test_mean_over_the_pairs_is_the_result_for_the_clip(texture):
    assert calculate_tof.needs_frame_pairs
    rng = np.random.default_rng(2)
    true = moving(texture, 1, 1, t=5)
    restored = np.clip(true + rng.normal(0, 10, true.shape), 0, 255).astype(np.uint8)
    pairs = [tof(restored[i : i + 2], true[i : i + 2]) for i in range(4)]
    assert max(pairs) > min(pairs)
    assert tof(restored, true) == pytest.approx(np.mean(pairs), rel=1e-12)


def test_any_number_of_threads_gives_the_same(texture):
    rng = np.random.default_rng(3)
    true = moving(texture, 2, 1)
    restored = np.clip(true + rng.normal(0, 10, true.shape), 0, 255).astype(np.uint8)
    before = cv2.getNumThreads()
    try:
        results = set()
        for threads in (1, 2, 3, 8, 1):
            cv2.setNumThreads(threads)
            results.add(tof(restored, true))
    finally:
        cv2.setNumThreads(before)
    assert len(results) == 1


def test_lists_and_channels_first_and_the_y_option_give_the_same(texture):
    restored, true = moving(texture, 1, 0), moving(texture, 1, 0.5)
    expected = tof(restored, true)
    assert expected > 0.4
    assert tof(list(restored), list(true)) == expected
    assert tof(restored, true, test_y_channel=True) == expected
    assert tof(restored.transpose(0, 3, 1, 2), true.transpose(0, 3, 1, 2), input_order='CHW') == expected


def test_flow_is_that_of_the_luma_and_channels_are_bgr(texture):
    """Where blue moves and green, six times as bright to the eye, stands still, the motion seen is green's."""
    still, moved = view(texture, 0, 0)[..., 0], view(texture, 3, 0)[..., 0]
    true = np.stack([np.stack([still, still, still], -1)] * 2)
    blue_moves = np.stack([true[0], np.stack([moved, still, still], -1)])
    red_moves = np.stack([true[0], np.stack([still, still, moved], -1)])
    green_moves = np.stack([true[0], np.stack([still, moved, still], -1)])
    assert tof(blue_moves, true) < tof(red_moves, true) < tof(green_moves, true)


def test_border_is_cut_after_the_flow_is_known(texture):
    """What lies in the border may move, and does not count; but the flow inside has seen it."""
    true = moving(texture, 0, 0, t=2)
    restored = true.copy()
    restored[1, :, :16] = moving(texture, 2, 0, t=2)[1, :, :16]
    assert tof(restored, true, crop_border=0) > 0.1
    assert tof(restored, true, crop_border=40) < 1e-3
    bare = calculate_tof(restored[:, 8:-8, 8:-8], true[:, 8:-8, 8:-8], 0)
    assert tof(restored, true, crop_border=8) != bare


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda clip: clip[:1], '4 of the ground truth'),
        (lambda clip: clip[:, :-1], '96x128, but one is 95x128'),
        (lambda clip: clip.astype(np.float32) / 255, 'float32 of shape (96, 128, 3)'),
        (lambda clip: clip[..., :1], 'uint8 of shape (96, 128, 1)'),
    ],
)
def test_clips_that_cannot_be_compared_are_refused(texture, change, message):
    clip = moving(texture, 1, 0)
    with pytest.raises(InputError) as error:
        tof(change(clip), clip)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ('frames', 'options', 'message'),
    [
        (np.zeros((1, 64, 64, 3), np.uint8), {}, 'at least 2 frames, but there are 1'),
        ([], {}, 'at least 2 frames, but there are 0'),
        (np.zeros((2, 15, 512, 3), np.uint8), {}, 'at least 16 px'),  # OpenCV 5.0 ends the process on such frames
        (np.zeros((2, 64, 15, 3), np.uint8), {}, 'at least 16 px'),
        (np.zeros((2, 16, 64, 3), np.uint8), {}, 'crop_border 8 leaves nothing of frames of 16x64'),
        (np.zeros((2, 16, 64, 3), np.uint8), {'crop_border': -1}, 'crop_border -1'),
        (np.zeros((2, 64, 64, 3), np.uint8), {'input_order': 'HCW'}, "input_order must be 'HWC' or 'CHW'"),
    ],
)
def test_impossible_input_is_refused(frames, options, message):
    with pytest.raises(InputError) as error:
        tof(frames, frames, **options)
    assert message in str(error.value)


@pytest.mark.parametrize('size', [(16, 16), (16, 1024), (1024, 16)])
def test_smallest_frames_have_finite_motion(size):
    rng = np.random.default_rng(4)
    restored, true = rng.integers(0, 256, (2, 2, *size, 3), np.uint8)
    assert 0 < tof(restored, true, crop_border=0) < max(size)
