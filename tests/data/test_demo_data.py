"""The demo dataset: its motion is true, its LR is the GT's, the same seed gives the same files."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from basicsr_plugins.data.demo_data import (
    CLIPS,
    HELD_OUT,
    load_motion,
    make_demo_data,
    make_motion,
    motion_flow,
    opacity,
    pixel_grid,
    read_photograph,
    render_frame,
)
from basicsr_plugins.errors import InputError

SHORT = tuple(
    replace(clip, num_frame=frames) for clip in CLIPS for name, frames in (('001', 8), ('007', 6)) if clip.name == name
)


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    root = tmp_path_factory.mktemp('demo') / 'demo data'
    assert make_demo_data(root, seed=3, clips=SHORT)
    return root


def read(path):
    return cv2.imread(str(path)).astype(np.float32)


def psnr(difference):
    return 10 * np.log10(255**2 / np.mean(difference**2))


def shows(motion, t, layer, margin=12):
    """Where only this layer shows in frame t, with its surroundings of `margin` pixels."""
    _, layers = motion_flow(motion, t, t)
    other = (layers != layer).astype(np.uint8)
    return cv2.dilate(other, np.ones((margin + 1, margin + 1), np.uint8)) == 0


@pytest.mark.parametrize('clip', SHORT, ids=lambda clip: clip.photograph)
@pytest.mark.parametrize('layer', [0, 1], ids=['background', 'foreground'])
def test_next_frame_warped_by_the_motion_is_this_frame(demo, clip, layer):
    motion = load_motion(demo, clip.name)
    height, width = motion['size']
    for t in (0, clip.num_frame // 2):
        this, following = (read(demo / 'GT' / clip.name / f'{i:08d}.png') for i in (t, t + 1))
        flow, layers = motion_flow(motion, t, t + 1)
        x, y = pixel_grid(height, width) + flow
        warped = cv2.remap(following, x, y, cv2.INTER_LANCZOS4)
        seen = cv2.remap(shows(motion, t + 1, layer).astype(np.float32), x, y, cv2.INTER_LINEAR) == 1
        valid = seen & shows(motion, t, layer) & (layers == layer)
        valid &= (x > 4) & (x < width - 5) & (y > 4) & (y < height - 5)
        assert valid.mean() > 0.05
        assert psnr((warped - this)[valid]) > 38
        assert psnr((following - this)[valid]) < 35  # what makes the first number say something


def test_flow_there_and_back_is_zero(demo):
    motion = load_motion(demo, SHORT[0].name)
    there, layers = motion_flow(motion, 2, 6)
    back, _ = motion_flow(motion, 6, 2)
    x, y = pixel_grid(*motion['size']) + there
    returned = there + np.stack([cv2.remap(channel, x, y, cv2.INTER_LINEAR) for channel in back])
    inside = shows(motion, 2, 0, 40) & (layers == 0) & (x > 0) & (y > 0) & (x < x.shape[1] - 1) & (y < x.shape[0] - 1)
    inside &= cv2.remap(shows(motion, 6, 0).astype(np.float32), x, y, cv2.INTER_LINEAR) == 1
    assert inside.any()
    assert np.abs(returned[:, inside]).max() < 0.05


def test_channel_0_of_the_flow_is_x():
    """A camera that moves right by 3 pixels and down by 1 sees everything move by (-3, -1)."""
    still = [[1.0, 0.0, 10.0], [0.0, 1.0, 20.0]]
    moved = [[1.0, 0.0, 13.0], [0.0, 1.0, 21.0]]
    motion = {'size': [4, 5], 'layers': [{'outline': None, 'gt_to_photo': [still, moved]}]}
    flow, layers = motion_flow(motion, 0, 1)
    assert np.allclose(flow[0], -3)
    assert np.allclose(flow[1], -1)
    assert not layers.any()


def test_still_camera_at_scale_1_shows_the_photograph():
    photograph = read_photograph('coffee.png')
    layer = {'photograph': 'coffee.png', 'outline': None, 'gt_to_photo': [[[1, 0, 100], [0, 1, 50]]]}
    frame = render_frame({'size': [128, 160], 'layers': [layer]}, 0, {'coffee.png': photograph})
    assert psnr(frame - photograph[50:178, 100:260]) > 38  # what the low-pass takes is what a frame cannot hold


def test_what_is_finer_than_the_pixels_does_not_alias():
    """A grating of 2.5 pixels shrunk by 2 has no place below the Nyquist limit: it must turn grey."""
    x = np.arange(600)
    grating = np.repeat(127.5 + 120 * np.sin(2 * np.pi * x / 2.5)[None, :, None], 600, axis=0).repeat(3, axis=2)
    layer = {'photograph': 'grating', 'outline': None, 'gt_to_photo': [[[2, 0, 40.3], [0, 2, 40.3]]]}
    frame = render_frame({'size': [128, 128], 'layers': [layer]}, 0, {'grating': grating.astype(np.float32)})
    assert frame.astype(float).std() < 0.06 * grating.std()


def test_cut_out_has_a_soft_edge_around_its_outline():
    outline = {'centre': [50, 40], 'radii': [30, 20], 'edge': 4.0}
    alpha = opacity(outline, [[1, 0, 0], [0, 1, 0]], (100, 80))
    assert alpha[40, 50] == 1
    assert alpha[40, 80] == pytest.approx(0.5)
    assert alpha[0, 0] == 0
    assert 0 < alpha[59, 50] < 1


def test_lq_is_the_toolbox_bicubic_of_the_gt(demo):
    from basicsr.utils.matlab_functions import imresize

    gt, lq = (read(demo / kind / '001' / '00000005.png') for kind in ('GT', 'BIx4'))
    assert lq.shape == (gt.shape[0] // 4, gt.shape[1] // 4, 3)
    assert np.abs((imresize(gt / 255, 0.25) * 255).clip(0, 255) - lq).max() <= 0.501


def test_layout_lengths_and_sizes(demo):
    for clip in SHORT:
        names = [f'{i:08d}.png' for i in range(clip.num_frame)]
        for kind in ('GT', 'BIx4'):
            assert sorted(path.name for path in (demo / kind / clip.name).iterdir()) == names
        assert read(demo / 'GT' / clip.name / names[0]).shape[:2] == clip.size
    assert [path.name for path in demo.parent.iterdir()] == [demo.name]  # no temporary folder stays
    assert len({clip.num_frame for clip in CLIPS}) > 5
    assert all(side % 16 == 0 for clip in CLIPS for side in clip.size)


def test_held_out_photographs_are_not_trained_on():
    photographs = {True: set(), False: set()}
    for clip in CLIPS:
        photographs[clip.name in HELD_OUT] |= {clip.photograph, clip.cut_out.photograph}
    assert not photographs[True] & photographs[False]
    assert sum(clip.name in HELD_OUT for clip in CLIPS) == len(HELD_OUT)


@pytest.mark.parametrize('seed', range(3))
def test_motion_is_sub_pixel_bounded_and_stays_inside_the_photograph(seed):
    fractions = []
    for clip in CLIPS:
        photo_height, photo_width = read_photograph(clip.photograph).shape[:2]
        motion = make_motion(clip, (photo_height, photo_width), np.random.default_rng(seed))
        height, width = clip.size
        corners = np.array([[0, width - 1, 0, width - 1], [0, 0, height - 1, height - 1], [1, 1, 1, 1]])
        seen = np.array(motion['layers'][0]['gt_to_photo']) @ corners
        assert seen.min() >= 0
        assert seen[:, 0].max() <= photo_width - 1
        assert seen[:, 1].max() <= photo_height - 1
        steps = np.linalg.norm(motion_flow(motion, 0, 1)[0], axis=0)
        assert steps.max() < 1.5 * clip.speed + 2
        fractions.append(np.abs(steps - steps.round()).mean())
    assert np.mean(fractions) > 0.15  # evenly spread over [0, 0.5] gives 0.25


def test_same_seed_same_files_other_seed_other_motion(demo, tmp_path):
    clips = SHORT[:1]
    for name, seed in (('same', 3), ('other', 4)):
        make_demo_data(tmp_path / name, seed, clips, num_thread=1)
    for path in ('GT/001/00000003.png', 'BIx4/001/00000007.png', 'motion/001.json'):
        assert (tmp_path / 'same' / path).read_bytes() == (demo / path).read_bytes()
        assert (tmp_path / 'other' / path).read_bytes() != (demo / path).read_bytes()


def test_whole_dataset_is_left_alone_and_a_damaged_one_is_made_again(tmp_path):
    root, clips = tmp_path / 'demo', SHORT[:1]
    make_demo_data(root, clips=clips)
    stamp = (root / 'GT' / '001' / '00000000.png').stat().st_mtime_ns
    assert not make_demo_data(root, clips=clips)
    assert (root / 'GT' / '001' / '00000000.png').stat().st_mtime_ns == stamp
    (root / 'BIx4' / '001' / '00000004.png').unlink()
    assert make_demo_data(root, clips=clips)
    assert (root / 'BIx4' / '001' / '00000004.png').is_file()


def test_interruption_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr('basicsr_plugins.data.demo_data.render_frame', fail)
    with pytest.raises(KeyboardInterrupt):
        make_demo_data(tmp_path / 'demo', clips=SHORT[:1])
    assert not list(tmp_path.iterdir())


def test_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / 'precious.txt').write_text('mine')
    with pytest.raises(InputError, match='something else'):
        make_demo_data(tmp_path, clips=SHORT[:1])
    assert (tmp_path / 'precious.txt').read_text() == 'mine'


def test_motion_file_holds_what_the_docstring_says(demo):
    motion = json.loads((demo / 'motion' / '001.json').read_text())
    assert motion['size'] == [256, 320]
    background, cut_out = motion['layers']
    assert (background['photograph'], background['outline']) == ('coffee.png', None)
    assert np.array(background['gt_to_photo']).shape == (motion['num_frame'], 2, 3)
    assert set(cut_out['outline']) == {'centre', 'radii', 'edge'}
    with pytest.raises(InputError, match='is missing'):
        load_motion(demo, '099')
