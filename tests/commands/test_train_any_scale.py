"""BasicAVSR by the literal commands: trained over a range of scales, validated, tested at several."""

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


@pytest.fixture(scope='module')
def root(run_toolbox, tmp_path_factory):
    """A folder in which the network was trained for 20 iterations and then tested at x2.7 and x3.5 by x2.5."""
    root = tmp_path_factory.mktemp('any_scale')
    shutil.copytree(PROJECT / 'options', root / 'options')
    for number in range(2):
        noise = np.random.default_rng(number).random((200, 200, 3), dtype=np.float32)
        pattern = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 1.5), None, 0, 255, cv2.NORM_MINMAX)
        folder = root / 'GT' / f'{number:03d}'
        folder.mkdir(parents=True)
        for i in range(6):
            cv2.imwrite(str(folder / f'{i:08d}.png'), pattern[10 : 10 + 83, 2 * i : 2 * i + 97].round())
    data = {'dataroot_gt': 'GT', 'io_backend': {'type': 'disk'}}
    train = root / 'options' / 'train_BasicAVSR_REDS.yml'
    changes = {'num_frame': 3, 'lq_size': 12, 'gt_size': 16, 'num_worker_per_gpu': 0, 'batch_size_per_gpu': 2}
    edit(
        train,
        {
            **{f'datasets:train:{key}': value for key, value in {**data, **changes}.items()},
            **{f'datasets:val:{key}': value for key, value in {**data, 'val_partition': ['001']}.items()},
            **{'datasets:train:val_partition': ['001'], 'network_g:spynet_path': None, **NETWORK},
            **{'train:total_iter': 20, 'train:optim_g:lr': 1e-3, 'train:accumulate': 2, 'train:checkpointing': True},
            **{'logger:print_freq': 1, 'logger:use_tb_logger': False},
        },
    )
    run_toolbox('-m', 'basicsr.train', '-opt', f'options/{train.name}', cwd=root)
    for name in ('x4', 'x2.7', 'x3.5x2.5'):
        test = root / 'options' / f'test_BasicAVSR_Vid4_{name}.yml'
        edit(test, {**{f'datasets:test:{key}': value for key, value in data.items()}, **NETWORK})
        edit(test, {'datasets:test:val_partition': ['001'], 'path:param_key_g': 'params'})
        run_toolbox('-m', 'basicsr.test', '-opt', f'options/{test.name}', cwd=root)
    return root


def metrics(folder):
    with open(folder / 'metrics.csv') as file:
        row = [row for row in csv.DictReader(file) if row['clip'] == '001'][-1]
    return float(row['psnr']), float(row['ssim'])


def test_trains_and_validates(root):
    """20 iterations lower the loss; the test at x4 gives the metrics of the last validation."""
    experiment = root / 'experiments' / 'BasicAVSR_REDS'
    log = next(experiment.glob('train_*.log')).read_text()
    losses = [float(loss) for loss in re.findall(r'l_pix: (\S+)', log)]
    assert len(losses) == 20
    assert sum(losses[-5:]) < sum(losses[:5])
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
