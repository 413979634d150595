"""Option files by the literal commands, made small: online networks, TDAN, those of single images train and test."""

import csv
import re
import shutil

import cv2
import numpy as np
import pytest
import yaml

from basicsr_plugins.compat.options import SafeOptionLoader

from ..conftest import PROJECT
from ..models.test_image_networks import SMALL as SMALL_IMAGE_NETWORKS

SMALL = {
    'RLSP': {'num_feat': 8, 'num_conv': 2},
    'RRN': {'num_feat': 8, 'num_block': 1},
    'RSDN': {'num_feat': 8, 'num_block': 1},
    'FRVSR': {'num_feat': 8, 'num_block': 1},
    'TDAN': {'num_feat': 8, 'num_extract_block': 1, 'num_block': 1, 'deform_groups': 2},
    **SMALL_IMAGE_NETWORKS,
}
OWN_LOSSES = {
    'RSDN': {'structure', 'detail'},
    'FRVSR': {'warp'},
    'TDAN': {'aligned'},
    'DRCN': {'recursions'},
    'LapSRN': {'levels'},
}


@pytest.fixture(scope='module')
def clips(tmp_path_factory):
    """GT and LR of two clips of ten frames of 96x80: a blurred random pattern that moves by 2 pixels a frame."""
    root = tmp_path_factory.mktemp('clips')
    for number in range(2):
        noise = np.random.default_rng(number).random((200, 200, 3), dtype=np.float32)
        pattern = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 1.5), None, 0, 255, cv2.NORM_MINMAX)
        for i in range(10):
            gt = pattern[10 : 10 + 80, 2 * i : 2 * i + 96].round().astype(np.uint8)
            for kind, image in (('GT', gt), ('BIx4', cv2.resize(gt, (24, 20), interpolation=cv2.INTER_AREA))):
                folder = root / kind / f'{number:03d}'
                folder.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder / f'{i:08d}.png'), image)
    return root


def roots(section, clips):
    """The section with the clips in place of its own; LR frames are read only where its own are."""
    section.update(dataroot_gt=str(clips / 'GT'), io_backend={'type': 'disk'}, val_partition=['001'])
    if 'degradation' not in section:
        section['dataroot_lq'] = str(clips / 'BIx4')


def write(path, opt):
    yaml.add_representer(type(opt), yaml.representer.SafeRepresenter.represent_dict, yaml.SafeDumper)
    path.write_text(yaml.safe_dump(opt, sort_keys=False))


@pytest.fixture(scope='module')
def root(clips, run_forked, tmp_path_factory):
    """A folder in which every network was trained for 20 iterations and then tested."""
    root = tmp_path_factory.mktemp('online')
    shutil.copytree(PROJECT / 'options', root / 'options')
    for network, arguments in SMALL.items():
        path = root / 'options' / f'train_{network}_REDS.yml'
        opt = yaml.load(path.read_text(), Loader=SafeOptionLoader)
        for section in opt['datasets'].values():
            roots(section, clips)
        train = opt['datasets']['train']
        train.update(gt_size=48, num_worker_per_gpu=0, batch_size_per_gpu=2)
        if 'scale_range' in train:
            train.update(gt_size=16, lq_size=16)  # that GT patches of four times the size are in the clips
        opt['network_g'].update(arguments)
        if opt['train']['optim_g']['type'] != 'SGD':
            opt['train']['optim_g']['lr'] = 1e-3
        opt['train']['total_iter'] = 20
        opt['logger'].update(print_freq=1, use_tb_logger=False)
        write(path, opt)
        test = {key: opt[key] for key in ('name', 'model_type', 'scale', 'num_gpu', 'manual_seed', 'network_g')}
        test['datasets'] = {'test': opt['datasets']['val']}
        test['path'] = {'pretrain_network_g': f'experiments/{network}_REDS/models/net_g_latest.pth'}
        test['val'] = {'save_img': True, 'metrics': opt['val']['metrics']}
        write(root / 'options' / f'test_{network}_small.yml', test)
        run_forked('-m', 'basicsr.train', '-opt', f'options/{path.name}', cwd=root)
        run_forked('-m', 'basicsr.test', '-opt', f'options/test_{network}_small.yml', cwd=root)
    return root


@pytest.mark.parametrize('network', SMALL)
def test_trains_validates_and_tests(network, root):
    """20 iterations lower the loss; the test gives the metrics of the last validation."""
    experiment, results = root / 'experiments' / f'{network}_REDS', root / 'results' / f'{network}_REDS'
    logged = [dict(re.findall(r'l_(\w+): (\S+)', line)) for line in _log(experiment) if 'l_pix' in line]
    assert len(logged) == 20
    assert set(logged[0]) == {'pix', *OWN_LOSSES.get(network, ())}
    losses = [float(row['pix']) for row in logged]
    assert sum(losses[-5:]) < sum(losses[:5])
    assert _metrics(results) == pytest.approx(_metrics(experiment), abs=5e-5)
    assert len(list(results.rglob('*.png'))) == 10


def _log(experiment):
    return next(experiment.glob('train_*.log')).read_text().splitlines()


def _metrics(folder):
    """PSNR and SSIM of the one clip in the last validation."""
    with open(folder / 'metrics.csv') as file:
        row = [row for row in csv.DictReader(file) if row['clip'] == '001'][-1]
    return float(row['psnr']), float(row['ssim'])
