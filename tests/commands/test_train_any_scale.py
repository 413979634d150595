"""Networks of any scale by the literal commands: trained over a range of scales, validated, tested at several."""

import csv
import re
import shutil

import cv2
import numpy as np
import pytest

from ..conftest import PROJECT
from .training import edit

NETWORK = {
    **dict.fromkeys(('network_g:num_block', 'network_g:num_extract_block', 'network_g:num_upsample_block'), 1),
    **{'network_g:num_feat': 8, 'network_g:deform_groups': 4},
}
IMAGE_NETWORKS = {
    'LIIF': {'network_g:num_feat': 8, 'network_g:num_block': 1, 'network_g:num_hidden': 16},
    'MetaSR': {'network_g:num_feat': 8, **dict.fromkeys(('network_g:num_block', 'network_g:num_conv'), 1)},
}
DATA = {'dataroot_gt': 'GT', 'io_backend': {'type': 'disk'}}
QUICK = {'train:total_iter': 20, 'train:optim_g:lr': 1e-3, 'logger:print_freq': 1, 'logger:use_tb_logger': False}


@pytest.fixture(scope='module')
def clips(tmp_path_factory):
    """A folder with the option files and GT of two clips."""
    root = tmp_path_factory.mktemp('any_scale')
    shutil.copytree(PROJECT / 'options', root / 'options')
    for number in range(2):
        noise = np.random.default_rng(number).random((200, 200, 3), dtype=np.float32)
        pattern = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 1.5), None, 0, 255, cv2.NORM_MINMAX)
        folder = root / 'GT' / f'{number:03d}'
        folder.mkdir(parents=True)
        for i in range(6):
            cv2.imwrite(str(folder / f'{i:08d}.png'), pattern[10 : 10 + 83, 2 * i : 2 * i + 97].round())
    return root


@pytest.fixture(scope='module')
def root(clips, run_forked):
    """A folder in which BasicAVSR was trained for 20 iterations and then tested at x2.7 and x3.5 by x2.5."""
    root = clips
    train = root / 'options' / 'train_BasicAVSR_REDS.yml'
    changes = {'num_frame': 3, 'lq_size': 12, 'gt_size': 16, 'num_worker_per_gpu': 0, 'batch_size_per_gpu': 2}
    edit(
        train,
        {
            **{f'datasets:train:{key}': value for key, value in {**DATA, **changes}.items()},
            **{f'datasets:val:{key}': value for key, value in {**DATA, 'val_partition': ['001']}.items()},
            **{'datasets:train:val_partition': ['001'], 'network_g:spynet_path': None, **NETWORK},
            **{**QUICK, 'train:accumulate': 2, 'train:checkpointing': True},
        },
    )
    run_forked('-m', 'basicsr.train', '-opt', f'options/{train.name}', cwd=root)
    for name in ('x4', 'x2.7', 'x3.5x2.5'):
        test = root / 'options' / f'test_BasicAVSR_Vid4_{name}.yml'
        edit(test, {**{f'datasets:test:{key}': value for key, value in DATA.items()}, **NETWORK})
        edit(test, {'datasets:test:val_partition': ['001'], 'path:param_key_g': 'params'})
        run_forked('-m', 'basicsr.test', '-opt', f'options/{test.name}', cwd=root)
    return root


def metrics(folder):
    with open(folder / 'metrics.csv') as file:
        row = [row for row in csv.DictReader(file) if row['clip'] == '001'][-1]
    return float(row['psnr']), float(row['ssim'])


def assert_loss_falls(experiment):
    log = next(experiment.glob('train_*.log')).read_text()
    losses = [float(loss) for loss in re.findall(r'l_pix: (\S+)', log)]
    assert len(losses) == 20
    assert sum(losses[-5:]) < sum(losses[:5])


@pytest.mark.parametrize('network', IMAGE_NETWORKS)
def test_image_networks_train_and_validate(network, clips, run_forked):
    """Over the range of their option files, from GT alone; the validation is at x4."""
    train = clips / 'options' / f'train_{network}_REDS.yml'
    changes = {**DATA, 'degradation': None, 'lq_size': 16, 'gt_size': 16}  # bicubic by default
    changes.update(num_worker_per_gpu=0, batch_size_per_gpu=4)
    edit(
        train,
        {
            **{f'datasets:train:{key}': value for key, value in {**changes, 'val_partition': ['001']}.items()},
            'datasets:val': {'name': 'val', 'type': 'VSRTestDataset', 'degradation': 'bicubic', **DATA},
            **{'datasets:val:val_partition': ['001'], **IMAGE_NETWORKS[network], **QUICK},
        },
    )
    run_forked('-m', 'basicsr.train', '-opt', f'options/{train.name}', cwd=clips)
    experiment = clips / 'experiments' / f'{network}_REDS'
    assert_loss_falls(experiment)
    assert metrics(experiment)[0] > 15


def test_trains_and_validates(root):
    """20 iterations lower the loss; the test at x4 gives the metrics of the last validation."""
    experiment = root / 'experiments' / 'BasicAVSR_REDS'
    assert_loss_falls(experiment)
    found, expected = metrics(root / 'results' / 'BasicAVSR_Vid4_x4'), metrics(experiment)
    assert found == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(('name', 'size'), [('x4', (80, 96)), ('x2.7', (81, 97)), ('x3.5x2.5', (83, 95))])
def test_tests(root, name, size):
    """GT of 97x83, cropped to the scaled size of LR; better than a grey picture is what 20 iterations can be."""
    results = root / 'results' / f'BasicAVSR_Vid4_{name}'
    images = sorted(results.rglob('*.png'))
    assert len(images) == 6
    assert cv2.imread(str(images[0])).shape[:2] == size
    assert metrics(results)[0] > 15
