"""Training SpyNet on the demo clips' motion: the flow that it is given is right, and what it learns holds elsewhere."""

import itertools
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from basicsr.archs.arch_util import flow_warp
from basicsr.archs.spynet_arch import SpyNet
from flow_training import (
    FLOW,
    KNOWN,
    REF,
    SUPP,
    end_point_error,
    flip,
    init_level,
    load_clip,
    lr_flow,
    shrink,
    train_spynet,
)

from basicsr_plugins.data.demo_data import CLIPS, load_motion, make_demo_data, motion_flow
from basicsr_plugins.errors import InputError

HELD_OUT_CLIP = '001'
FRAMES = {HELD_OUT_CLIP: 4, '004': 5, '007': 5, '008': 5}


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    root = tmp_path_factory.mktemp('demo') / 'demo'
    make_demo_data(root, clips=[replace(clip, num_frame=FRAMES[clip.name]) for clip in CLIPS if clip.name in FRAMES])
    return root


@pytest.fixture(scope='module')
def clip(demo):
    return load_clip(demo, HELD_OUT_CLIP)


@pytest.fixture(scope='module')
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def flow_at_centres(motion, t, s):
    """Flow of the LR frames, (h, w, 2), straight from the affines: LR pixel x has its centre on GT pixel 4 x + 1.5."""
    _, layers = motion_flow(motion, t, s)
    h, w = layers.shape[0] // 4, layers.shape[1] // 4
    flow, known = np.zeros((h, w, 2)), np.zeros((h, w), bool)
    for y, x in itertools.product(range(h), range(w)):
        (layer, *others) = np.unique(layers[4 * y : 4 * y + 4, 4 * x : 4 * x + 4])
        known[y, x] = not others
        at_t, at_s = (np.array(motion['layers'][layer]['gt_to_photo'][i]) for i in (t, s))
        point = np.array([4 * x + 1.5, 4 * y + 1.5])
        flow[y, x] = (cv2.invertAffineTransform(at_s) @ [*(at_t @ [*point, 1]), 1] - point) / 4
    return flow, known


def psnr(difference):
    return -10 * float(difference.square().mean().log10())


def warp(image, flow):
    return flow_warp(image[None], flow.permute(1, 2, 0)[None], padding_mode='border')[0]


@pytest.mark.parametrize(('t', 's'), [(0, 1), (3, 1)])
def test_flow_is_that_of_the_lr_pixels_centres(demo, t, s):
    motion = load_motion(demo, HELD_OUT_CLIP)
    flow, known = lr_flow(motion, t, s)
    expected, expected_known = flow_at_centres(motion, t, s)
    assert np.array_equal(known[0].numpy() == 1, expected_known)
    assert 0.9 < known.mean() < 1
    assert np.abs(flow.permute(1, 2, 0).numpy() - expected)[expected_known].max() < 1e-4


def test_the_other_frame_warped_by_the_flow_is_this_frame(clip):
    """And neither by the flow of the other sign, nor of the other scale, nor of the other order of channels."""
    pair = clip.pair(0, 3)
    ref, supp, flow, known = pair[REF], pair[SUPP], pair[FLOW], pair[KNOWN]
    assert torch.equal(supp, clip.frames[3])

    def score(flow):
        return psnr((warp(supp, flow) - ref)[(known * away_from_border(known)).expand(3, -1, -1) == 1])

    right = score(flow)
    assert right > score(0 * flow) + 6
    assert right > max(score(-flow), score(4 * flow), score(flow / 4), score(flow.flip(0))) + 4


def away_from_border(known, margin=6):
    """1 where it is, (1, h, w)."""
    inside = torch.zeros_like(known)
    inside[:, margin:-margin, margin:-margin] = 1
    return inside


@pytest.mark.parametrize('how', list(itertools.product([False, True], repeat=3)))
def test_a_flipped_pair_keeps_its_motion(clip, how):
    """Warping a flipped frame by the flipped flow is flipping the warped frame."""
    pair = clip.pair(2, 0)
    warped = pair.clone()
    warped[SUPP] = warp(pair[SUPP], pair[FLOW])
    flipped = flip(pair, *how)
    assert torch.allclose(warp(flipped[SUPP], flipped[FLOW]), flip(warped, *how)[SUPP], atol=1e-4)
    assert any(how) == (not torch.equal(flipped[REF], pair[REF]))


def test_a_pair_shrunk_has_flow_in_its_own_pixels(clip):
    half = shrink(clip.pair(0, 3)[None])[0]
    inside = away_from_border(half[KNOWN], 3).expand(3, -1, -1) == 1
    still, right, double = (psnr((warp(half[SUPP], scale * half[FLOW]) - half[REF])[inside]) for scale in (0, 1, 2))
    assert right > max(still, double) + 4


def test_first_layer_sees_no_brightness_and_half_of_it_only_change():
    torch.manual_seed(0)
    level = SpyNet().basic_module[0]
    init_level(level)
    first = level.basic_module[0]
    grey = torch.cat([torch.full((1, 6, 9, 9), 2.0), torch.zeros(1, 2, 9, 9)], 1)
    assert first(grey)[..., 4, 4].abs().max() < 1e-4
    frame = torch.rand(1, 3, 9, 9)
    response = first(torch.cat([frame, frame, torch.zeros(1, 2, 9, 9)], 1))[0, :, 4, 4].abs()
    assert response[:16].max() < 1e-5
    assert response[16:].max() > 0.01


def test_end_point_error_of_a_known_mistake(demo, clip):
    """Of zero flow it is the mean length of the true flow, over known pixels only, in both directions."""
    lengths = []
    for t in range(FRAMES[HELD_OUT_CLIP] - 1):
        for pair in ((t, t + 1), (t + 1, t)):
            flow, known = flow_at_centres(load_motion(demo, HELD_OUT_CLIP), *pair)
            lengths.append(np.linalg.norm(flow, axis=2)[known])
    zero = end_point_error(lambda ref, supp: torch.zeros_like(ref[:, :2]), [clip])
    assert zero == pytest.approx(np.concatenate(lengths).mean(), rel=1e-4)


def test_training_lowers_the_error_on_a_held_out_clip(demo, tmp_path, one_thread):
    path = tmp_path / 'new' / 'spynet.pth'
    error = train_spynet(demo, path, iterations=120)

    weights = torch.load(path, weights_only=True)['params']
    assert set(weights) == {name for name, _ in SpyNet().named_parameters()}  # what BasicSR loads without any patch
    net = SpyNet(str(path))
    motion, frames = load_motion(demo, HELD_OUT_CLIP), load_clip(demo, HELD_OUT_CLIP).frames
    errors, lengths = [], []
    for t, s in ((0, 1), (1, 2), (2, 3), (1, 0), (2, 1), (3, 2)):
        expected, known = flow_at_centres(motion, t, s)
        with torch.no_grad():
            flow = net(frames[t][None], frames[s][None])[0].permute(1, 2, 0).numpy()
        errors.append(np.linalg.norm(flow - expected, axis=2)[known])
        lengths.append(np.linalg.norm(expected, axis=2)[known])
    assert error == pytest.approx(np.concatenate(errors).mean(), rel=1e-3)
    assert error < 0.9 * np.concatenate(lengths).mean()


def test_same_seed_same_weights_whatever_the_held_out_clips_show(demo, tmp_path, one_thread):
    other = tmp_path / 'demo'
    shutil.copytree(demo, other, ignore=shutil.ignore_patterns('GT'))
    for frame in (other / 'BIx4' / HELD_OUT_CLIP).iterdir():
        cv2.imwrite(str(frame), np.zeros((64, 80, 3), np.uint8))
    runs = {'a': (demo, 0), 'b': (other, 0), 'c': (demo, 1)}
    for name, (data, seed) in runs.items():
        train_spynet(data, tmp_path / name, iterations=5, seed=seed)
        torch.rand(1)  # the state of the caller's generator does not matter
    a, b, c = (torch.load(tmp_path / name, weights_only=True)['params'] for name in runs)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a['basic_module.5.basic_module.4.weight'], c['basic_module.5.basic_module.4.weight'])
    levels = [a[f'basic_module.{i}.basic_module.0.weight'] for i in (3, 5)]
    assert not torch.equal(*levels)  # trained on, each for itself


def test_finished_file_is_kept_and_an_interrupted_training_leaves_none(demo, clip, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr('flow_training.fit', stop)
    with pytest.raises(KeyboardInterrupt):
        train_spynet(demo, tmp_path / 'spynet.pth')
    assert not list(tmp_path.iterdir())

    still = {name: torch.zeros_like(weight) for name, weight in SpyNet().named_parameters()}
    torch.save({'params': still}, tmp_path / 'spynet.pth')
    error = train_spynet(demo, tmp_path / 'spynet.pth')
    assert error == pytest.approx(end_point_error(lambda ref, supp: torch.zeros_like(ref[:, :2]), [clip]))


def test_missing_dataset_is_named(tmp_path):
    with pytest.raises(InputError, match=r'demo_data\.json is missing'):
        train_spynet(tmp_path, tmp_path / 'spynet.pth')
