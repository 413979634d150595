"""Small clips whose pixels say which clip, frame and place they are, so that any mix-up shows."""

import cv2
import numpy as np
import pytest

LENGTHS = {'000': 9, '001': 12, '011': 7, 'long': 20}
SUFFIXES = {'png': '.lmdb', 'raw': '_raw.lmdb', 'tiles': '_tiles.lmdb'}  # of the LMDBs, by layout


def lq_frame(clip_number, frame, h=12, w=16):
    """(h, w, 3), BGR, uint8: blue is the row, green the column, red the clip and the frame."""
    rows, columns = np.mgrid[0:h, 0:w]
    return np.stack([rows * 16, columns * 12, np.full((h, w), clip_number * 25 + frame)], axis=-1).astype(np.uint8)


@pytest.fixture(scope='session')
def clip_folders(tmp_path_factory):
    """Folders LQ and GT; a GT frame is its LQ frame with every pixel repeated 4x4."""
    root = tmp_path_factory.mktemp('clips')
    for number, (clip, length) in enumerate(LENGTHS.items()):
        for kind in ('LQ', 'GT'):
            (root / kind / clip).mkdir(parents=True)
        for frame in range(length):
            lq = lq_frame(number, frame)
            cv2.imwrite(str(root / 'LQ' / clip / f'{frame:08d}.png'), lq)
            cv2.imwrite(str(root / 'GT' / clip / f'{frame:08d}.png'), lq.repeat(4, axis=0).repeat(4, axis=1))
    return root


@pytest.fixture(scope='session')
def clip_lmdbs(clip_folders, tmp_path_factory):
    """The same as LMDBs: LQ.lmdb and GT.lmdb of layout png, LQ_raw.lmdb, ..."""
    from basicsr_plugins.data.lmdb_store import pack_lmdb

    root = tmp_path_factory.mktemp('lmdbs')
    for kind in ('LQ', 'GT'):
        for layout, suffix in SUFFIXES.items():
            pack_lmdb(clip_folders / kind, root / f'{kind}{suffix}', num_worker=0, layout=layout)
    return root


@pytest.fixture(params=['disk', *SUFFIXES])
def train_options(request, clip_folders, clip_lmdbs):
    """Options of VSRTrainDataset on disk and on LMDBs of each layout."""
    root, suffix = (clip_lmdbs, SUFFIXES[request.param]) if request.param in SUFFIXES else (clip_folders, '')
    return {
        'name': 'clips',
        'type': 'VSRTrainDataset',
        'phase': 'train',
        'scale': 4,
        'dataroot_gt': str(root / f'GT{suffix}'),
        'dataroot_lq': str(root / f'LQ{suffix}'),
        'io_backend': {'type': 'disk' if request.param == 'disk' else 'lmdb'},
        'num_frame': 5,
        'gt_size': 32,
        'use_hflip': True,
        'use_rot': True,
    }


@pytest.fixture
def test_options(train_options):
    """Options of VSRTestDataset on disk and on LMDBs of each layout."""
    kept = ('name', 'scale', 'dataroot_gt', 'dataroot_lq', 'io_backend')
    return {**{key: train_options[key] for key in kept}, 'type': 'VSRTestDataset', 'phase': 'val'}
