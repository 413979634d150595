"""Small clips that move, so that every metric has something to measure."""

import multiprocessing
import sys

import cv2
import numpy as np
import pytest

from basicsr_plugins.benchmark import workers

LENGTHS = {'a': 5, 'b': 7}
SIZES = {'a': (48, 64), 'b': (48, 80)}  # of GT; that of b is another, so that a network can fail on it alone


def gt_frame(clip, i):
    """(h, w, 3), BGR, uint8: a smooth random texture that moves by a pixel per frame."""
    h, w = SIZES[clip]
    noise = np.random.default_rng(len(clip) + ord(clip[0])).uniform(0, 255, (h + 32, w + 32, 3))
    texture = cv2.GaussianBlur(noise, (0, 0), 2)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    return np.ascontiguousarray(texture[i : i + h, 2 * i : 2 * i + w])


def lq_frame(clip, i):
    gt = gt_frame(clip, i)
    return cv2.resize(gt, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)


def write_clip(folder, frames):
    folder.mkdir(parents=True)
    for i, frame in enumerate(frames):
        cv2.imwrite(str(folder / f'{i:08d}.png'), frame)


def make_test_set(root):
    """Write GT/ and BIx4/ of the clips a and b; returns `root`."""
    for clip, length in LENGTHS.items():
        write_clip(root / 'GT' / clip, [gt_frame(clip, i) for i in range(length)])
        write_clip(root / 'BIx4' / clip, [lq_frame(clip, i) for i in range(length)])
    return root


@pytest.fixture(scope='module', autouse=True)
def forked_workers():
    """Networks run in processes forked after BasicSR was imported, which takes seconds; a command spawns them."""
    context = multiprocessing.get_context('forkserver' if sys.platform == 'linux' else 'spawn')
    context.set_forkserver_preload(['basicsr_plugins.benchmark.runner'])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, 'PROCESSES', context)
        yield


@pytest.fixture(scope='session')
def test_set(tmp_path_factory):
    return make_test_set(tmp_path_factory.mktemp('test_set'))
