"""A BasicSR checkout whose option files lead to LMDBs of real clips, and to the real SpyNet weights."""

import cv2
import pytest

from ..conftest import PROJECT


@pytest.fixture(scope='session')
def lmdbs(shared, run_forked, tmp_path_factory):
    """GT.lmdb and BIx4.lmdb of Vid4 calendar and city and of CDVL ntia_Aspen, packed by the project's script."""
    root = tmp_path_factory.mktemp('lmdbs')
    for kind in ('GT', 'BIx4'):
        for dataset in ('Vid4', 'CDVL'):
            for clip in (shared / 'data' / dataset / kind).iterdir():
                (root / kind).mkdir(exist_ok=True)
                (root / kind / clip.name).symlink_to(clip)
        run_forked(
            PROJECT / 'scripts' / 'data_preparation' / 'create_lmdb.py',
            'folder',
            root / kind,
            root / f'{kind}.lmdb',
            cwd=root,
        )
    return root


@pytest.fixture
def checkout(basicsr_checkout, lmdbs, shared):
    """A BasicSR checkout in which the option files' paths lead to the real clips and weights."""
    (basicsr_checkout / 'datasets' / 'REDS').mkdir()
    for name, kind in (('train_sharp_with_val', 'GT'), ('train_sharp_bicubic_with_val', 'BIx4')):
        (basicsr_checkout / 'datasets' / 'REDS' / f'{name}.lmdb').symlink_to(lmdbs / f'{kind}.lmdb')
    (basicsr_checkout / 'datasets' / 'Vid4').symlink_to(shared / 'data' / 'Vid4')
    for kind, size in (('GT', 256), ('BIx4', 64)):  # a short, small clip for what only has to run
        short = basicsr_checkout / 'datasets' / 'short' / kind / 'city'
        short.mkdir(parents=True)
        for path in sorted((shared / 'data' / 'Vid4' / kind / 'city').iterdir())[:6]:
            cv2.imwrite(str(short / path.name), cv2.imread(str(path))[:size, :size])
    weights = basicsr_checkout / 'experiments' / 'pretrained_models' / 'flownet'
    weights.mkdir(parents=True)
    (weights / 'spynet_sintel_final-3d2a1287.pth').symlink_to(shared / 'weights' / 'spynet_sintel_final.pth')
    return basicsr_checkout
