"""Rendering of generated clips: what is seen where, sharpness, aliasing and motion against closed forms."""

import cv2
import numpy as np
import pytest

from basicsr_plugins.data.demo_data import HALF_BAND
from basicsr_plugins.data.synthetic_motion import (
    Layer,
    Material,
    low_pass,
    lr_flow,
    make_layers,
    outline,
    random_path,
    render,
)
from basicsr_plugins.data.synthetic_photos import photograph_files
from basicsr_plugins.data.synthetic_pictures import PICTURES

SIZE = (48, 64)


def affine(density, angle, offset):
    c, s = density * np.cos(angle), density * np.sin(angle)
    return np.array([[c, -s, offset[0]], [s, c, offset[1]]])


def wave(place):
    """A picture as a function of (x, y) in GT pixels of frame 0: a period of 16 pixels, every direction."""
    return 128 + 60 * np.sin(2 * np.pi * place[..., 0] / 16) + 50 * np.cos(2 * np.pi * place[..., 1] / 16)


def grid(h, w):
    return np.stack(np.meshgrid(np.arange(w), np.arange(h)), axis=-1).astype(float)


def wave_layer(affines):
    """Density 2: picture pixel 2 x shows what lies at x."""
    picture = wave(grid(400, 400) / 2)[..., None].repeat(3, axis=2).astype(np.float32)
    return Layer(picture, np.array(affines))


def test_a_frame_shows_the_picture_at_the_place_that_the_affine_says():
    affines = [affine(2, 0, (60, 50)), affine(2.2, 0.1, (71.3, 60.7)), affine(1.7, -0.2, (90, 40.2))]
    frames, opacity = render([wave_layer(affines)], SIZE)
    assert frames.shape == (3, *SIZE, 3)
    assert opacity.shape == (3, 0, *SIZE)
    for matrix, frame in zip(affines, frames):
        expected = wave((grid(*SIZE) @ matrix[:, :2].T + matrix[:, 2]) / 2)
        # the low-pass takes 4 % of a period of 16 pixels, whatever the density
        contrast = np.std(frame) / np.std(expected)
        assert 0.93 < contrast < 1.01
        np.testing.assert_allclose(frame[..., 0], 128 + contrast * (expected - 128), atol=2.5)


def test_low_pass_at_two_is_the_half_band_filter_of_the_demo_data():
    point = np.zeros((15, 15, 3), np.float32)
    point[7, 7] = 1
    np.testing.assert_allclose(low_pass(point, 2)[4:11, 4:11, 0], np.outer(HALF_BAND, HALF_BAND), atol=1e-7)


def test_low_pass_removes_what_would_alias_and_keeps_the_rest():
    x = np.arange(256)
    for density, period, low, high in [(2, 2.4, 0, 0.1), (2, 12, 0.9, 1), (1.5, 2, 0, 0.13), (3, 30, 0.95, 1)]:
        lines = np.cos(2 * np.pi * x / period).astype(np.float32)
        passed = low_pass(np.tile(lines[None, :, None], (32, 1, 3)), density)[16, 32:-32, 0]
        assert low <= passed.std() / lines.std() <= high


def test_flow_finds_the_same_place_of_the_picture():
    """The picture at x in frame t is the picture at x + flow in frame s: to rounding, whatever the motion."""
    affines = [affine(2, 0, (60, 50)), affine(2.2, 0.1, (71.3, 60.7))]
    layer = wave_layer(affines)
    _, opacity = render([layer], SIZE)
    flow = lr_flow([layer], opacity, 0, 1, 1).transpose(1, 2, 0)
    here, there = grid(*SIZE), grid(*SIZE) + flow
    np.testing.assert_allclose(
        there @ affines[1][:, :2].T + affines[1][:, 2], here @ affines[0][:, :2].T + affines[0][:, 2], atol=1e-3
    )


def test_lr_flow_is_the_mean_gt_flow_of_a_pixel():
    layer = wave_layer([affine(2, 0, (60, 50)), affine(2.2, 0.1, (71.3, 60.7))])
    _, opacity = render([layer], SIZE)
    gt = lr_flow([layer], opacity, 0, 1, 1)
    blocks = gt.reshape(2, 12, 4, 16, 4).mean((2, 4)) / 4
    np.testing.assert_allclose(lr_flow([layer], opacity, 0, 1, 4), blocks, atol=1e-4)


def test_what_is_in_front_hides_and_has_its_own_motion():
    back = wave_layer([affine(2, 0, (60, 50)), affine(2, 0, (66, 50))])  # moves by -3 GT pixels
    square = np.zeros((40, 40, 4), np.float32)
    square[4:36, 4:36] = (200, 100, 50, 1)
    front = Layer(square, np.array([affine(2, 0, (-20, -20)), affine(2, 0, (-30, -20))]))  # moves by +5
    frames, opacity = render([back, front], SIZE)
    np.testing.assert_array_equal(frames[0, 14:26, 14:26].reshape(-1, 3), np.tile([200, 100, 50], (144, 1)))
    np.testing.assert_allclose(frames[0, :, 40:], render([back], SIZE)[0][0, :, 40:], atol=1)
    assert opacity[0, 0, 20, 20] == pytest.approx(1)
    assert opacity[0, 0, 20, 40] == 0
    flow = lr_flow([back, front], opacity, 0, 1, 1)
    np.testing.assert_allclose(flow[:, 20, 20], [5, 0], atol=1e-4)
    np.testing.assert_allclose(flow[:, 20, 50], [-3, 0], atol=1e-4)


@pytest.mark.parametrize('speed', [0.0, 0.5, 20.0])
def test_paths_are_smooth_and_keep_to_the_speed(speed):
    for seed in range(20):
        path = random_path(np.random.default_rng(seed), 15, speed)
        steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
        assert steps.max() == pytest.approx(speed, abs=1e-9)
        assert np.abs(np.diff(path, n=2, axis=0)).max() <= 1.2 * speed


@pytest.mark.parametrize('kind', PICTURES)
def test_procedural_pictures(kind):
    """Any size, the same for the same seed, another for another one, and not flat."""
    first, again, other = (PICTURES[kind](np.random.default_rng(seed), 120, 90) for seed in (1, 1, 2))
    assert first.shape == (120, 90, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert max(PICTURES[kind](np.random.default_rng(seed), 200, 200).std() for seed in range(4)) > 15


def test_outlines_are_transparent_at_the_border():
    for seed in range(20):
        mask = outline(np.random.default_rng(seed), 60, 80, 2.0)
        assert mask.min() >= 0
        assert 0.2 < mask.max() <= 1
        assert not mask[[0, -1]].any()
        assert not mask[:, [0, -1]].any()


def test_backgrounds_cover_the_view():
    """No frame shows a picture mirrored at its border, where `LARGEST` does not forbid it."""
    material = Material(tuple(photograph_files()), ('stripes', 'noise'))
    corners = np.array([[0, 0, 1], [63, 0, 1], [0, 47, 1], [63, 47, 1]])
    for seed in range(30):
        layer = make_layers(np.random.default_rng(seed), material, 5, SIZE, max_layers=0)[0]
        places = np.einsum('tij,kj->tki', layer.gt_to_picture, corners)
        limit = np.array(layer.picture.shape[1::-1])
        if limit.max() < 1024:
            assert places.min() >= 0
            assert (places.max((0, 1)) <= limit - 1).all()


def test_frames_are_cut_from_files_that_are_for_training_only():
    training, validation = photograph_files(), photograph_files(held_out=True)
    assert len(training) >= 8
    assert len(validation) >= 3
    assert not set(training) & set(validation)
    for path, *_ in training + validation:
        assert cv2.imread(path) is not None
