"""Every option file of `options/`: what it says is known to the class that reads it, and fits together."""

import inspect
import re
import subprocess

import cv2
import numpy as np
import pytest
import torch
import torchvision
import yaml
from basicsr.archs.spynet_arch import SpyNet
from basicsr.data import build_dataset
from basicsr.models import build_model
from basicsr.utils import options as toolbox_options
from basicsr.utils.registry import ARCH_REGISTRY

from basicsr_plugins.compat.options import read_options
from basicsr_plugins.models.networks import check_network_options
from basicsr_plugins.scales import lr_size, scaled_size

from .conftest import PROJECT

FILES = {path.stem: path for path in sorted((PROJECT / 'options').glob('*.yml'))}
TRAIN = [name for name in FILES if name.startswith('train_')]
TEST = [name for name in FILES if name.startswith('test_')]
RECIPES = TRAIN + TEST
CLIPS = ('000', '001', '002', '003', '011', '015', '020')  # those of all partitions, and one more
SIBLING = re.compile(r'# As (\S+)\.yml but for: (.+)')


def read(name):
    return read_options(FILES[name], name)


def header(name):
    """The comment that a file begins with."""
    return re.match(r'(#.*\n)+', FILES[name].read_text()).group()


def flat(section, prefix=''):
    """`{'a': {'b': 1}}` -> `{'a.b': 1}`."""
    for key, value in section.items():
        if isinstance(value, dict):
            yield from flat(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', value


def arguments(network):
    """A network's arguments, defaults too, but for where weights come from."""
    known = inspect.signature(ARCH_REGISTRY.get(network['type']).__init__).parameters.values()
    defaults = {
        parameter.name: parameter.default for parameter in known if parameter.name not in ('self', 'spynet_path')
    }
    return {**defaults, **{key: value for key, value in network.items() if key != 'spynet_path'}}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """The folders that the files name: clips of 15 frames, GT 256x256 and LR 64x64, and Vimeo-90K's own layout."""
    root = tmp_path_factory.mktemp('data')

    def write(path, size):
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((size, size, 3), 100, np.uint8))

    for clip in CLIPS:
        for i in range(15):
            write(root / 'GT' / clip / f'{i:08d}.png', 256)
            write(root / 'LQ' / clip / f'{i:08d}.png', 64)
    vimeo = root / 'datasets' / 'vimeo90k'
    for i in range(1, 8):
        write(vimeo / 'vimeo_septuplet' / 'sequences' / '00001' / '0002' / f'im{i}.png', 256)
        write(vimeo / 'vimeo_septuplet_matlabLRx4' / 'sequences' / '00001' / '0002' / f'im{i}.png', 64)
    (vimeo / 'vimeo_septuplet' / 'sep_trainlist.txt').write_bytes(b'00001/0002\r\n\r\n')
    return root


@pytest.mark.parametrize('name', FILES)
def test_any_reader_of_yaml_reads_the_same(name):
    """Numbers are numbers to every loader, without tags and without ours."""
    text = FILES[name].read_text()
    assert yaml.safe_load(text) == read(name)
    assert '!!' not in text


@pytest.mark.parametrize('name', RECIPES)
def test_names(name):
    opt = read(name)
    assert name.split('_', 1)[1] == opt['name']
    command = 'train' if name in TRAIN else 'test'
    assert re.search(rf'#   (python -m basicsr\.|basicsr/){command}(\.py)? -opt options/{name}\.yml', header(name))


@pytest.mark.parametrize('name', [name for name in RECIPES if SIBLING.search(FILES[name].read_text())])
def test_siblings_differ_in_what_they_say(name):
    """In no other key, and in each of those; what both have stands in the same order."""
    other, keys = SIBLING.search(header(name)).groups()
    keys = [key.strip() for key in keys.split(',')]
    mine, theirs = dict(flat(read(name))), dict(flat(read(other)))
    missing = object()
    different = {key for key in {**mine, **theirs} if mine.get(key, missing) != theirs.get(key, missing)}
    unsaid = {key for key in different if not any(f'{key}.'.startswith(f'{said}.') for said in keys)}
    assert not unsaid
    assert all(any(f'{key}.'.startswith(f'{said}.') for key in different) for said in keys)
    both = set(mine) & set(theirs)
    assert [key for key in mine if key in both] == [key for key in theirs if key in both]


def test_siblings_that_there_are():
    assert {name for name in RECIPES if SIBLING.search(header(name))} == {
        'train_EFAR_REDS_5frames',
        'train_BasicVSR_REDS',
        'train_MSFFN_REDS',
        'train_RSDN_REDS',
        'train_DRCN_REDS',
        'train_DRRN_REDS',
        'train_ESPCN_REDS',
        'train_FSRCNN_REDS',
        'train_LIIF_REDS',
        'train_LapSRN_REDS',
        'train_MetaSR_REDS',
        'train_REDNet_REDS',
        'train_SESR_REDS',
        'train_SRCNN_REDS',
        'train_SRDenseNet_REDS',
        'train_VDSR_REDS',
        'train_RealBasicVSR_stage2',
        'test_EFAR_REDS4_5frames',
        'test_EFAR_Vid4',
        'test_Bicubic_Vid4',
        'test_Bicubic_demo',
        'test_BasicAVSR_Vid4_x2',
        'test_BasicAVSR_Vid4_x2.7',
        'test_BasicAVSR_Vid4_x3',
        'test_BasicAVSR_Vid4_x3.5x2.5',
    }


@pytest.mark.parametrize('name', [name for name in TEST if 'Bicubic' not in name])
def test_a_test_is_of_what_its_training_leaves(name):
    opt = read(name)
    trained = f'train_{opt["path"]["pretrain_network_g"].split("/")[1]}'
    assert arguments(opt['network_g']) == arguments(read(trained)['network_g'])
    assert opt['path']['pretrain_network_g'] == f'experiments/{read(trained)["name"]}/models/net_g_latest.pth'
    assert opt['path'].get('param_key_g', 'params') == (
        'params_ema' if read(trained)['train']['ema_decay'] else 'params'
    )


@pytest.mark.parametrize('name', TRAIN)
def test_training_fits_together(name):
    opt = read(name)
    train, sample = opt['train'], opt['datasets']['train']
    scheduler = train['scheduler']
    if 'periods' in scheduler:
        assert sum(scheduler['periods']) >= train['total_iter']  # beyond them the toolbox's scheduler fails
        assert len(scheduler['periods']) == len(scheduler.get('restart_weights', [1]))
        assert scheduler['eta_min'] < train['optim_g']['lr'] * train.get('flow_lr_mul', 1)
    else:
        assert sorted(scheduler['milestones']) == scheduler['milestones']
        assert scheduler['milestones'][-1] <= train['total_iter']
    assert train['total_iter'] % opt['val']['val_freq'] == 0
    assert train['total_iter'] % opt['logger']['save_checkpoint_freq'] == 0
    network = arguments(opt['network_g'])
    if ARCH_REGISTRY.get(network['type']).__dict__.get('input_type') == 'window':
        assert network['num_frame'] == sample['num_frame']
    assert sample.get('scale_range') or sample['gt_size'] % opt['scale'] == 0


@pytest.mark.parametrize('name', RECIPES)
def test_datasets(name, data, monkeypatch):
    """The class that reads a section takes it as it stands, and its samples have the sizes that it says."""
    monkeypatch.chdir(data)
    scale = read(name)['scale']
    for phase, section in read(name)['datasets'].items():
        if section.get('scale_range'):  # patches of 256 at most here
            section |= {'lq_size': 40, 'gt_size': 40}
        if section['type'] == 'Vimeo90KDataset':
            command = re.search(r'#   (sed (?:.*\\\n#)?.*)', header(name)).group(1).replace('\\\n#', '')
            subprocess.run(command, shell=True, check=True)
        elif section['type'] != 'SyntheticMotionDataset':  # which generates its clips
            section |= {'dataroot_gt': 'GT', 'io_backend': {'type': 'disk'}}
            if 'degradation' not in section:  # which makes LQ frames of the GT
                section['dataroot_lq'] = 'LQ'
        dataset = build_dataset({**section, 'phase': phase, 'scale': scale})
        sample = dataset[0]
        t = section.get('num_frame', 15) * (2 if section.get('mirror') else 1)
        size = section.get('gt_size', 256)
        lq = lr_size((size, size), 1 if section.get('scale_range') else scale)
        gt = scaled_size(lq, scale) if phase == 'test' else (size, size)
        shown = len(range(0, t, section.get('lq_interval', 1)))
        assert sample['lq'].shape == (shown, 3, *lq)
        assert sample['gt'].shape == ((t, 3, *gt) if section['type'] != 'Vimeo90KDataset' else (3, *gt))
        if section.get('val_partition') == 'REDS4':
            expected = {'000', '011', '015', '020'}
            clips = {pair[0].name for pair in dataset.clips}
            assert clips == (set(CLIPS) - expected if phase == 'train' else expected)


@pytest.mark.parametrize('name', RECIPES)
def test_model(name, tmp_path, monkeypatch):
    """The toolbox's parser and our model class take all sections; the flow network is trained as the file says."""
    weights = tmp_path / 'experiments' / 'pretrained_models' / 'flownet' / 'spynet_sintel_final-3d2a1287.pth'
    weights.parent.mkdir(parents=True)
    torch.save({'params': SpyNet().state_dict()}, weights)
    with torch.device('meta'):
        vgg = torchvision.models.vgg19(weights=None).state_dict()
    vgg = {key: torch.zeros(1).expand(value.shape) for key, value in vgg.items()}  # a number for each weight
    torch.save(vgg, tmp_path / 'experiments' / 'pretrained_models' / 'vgg19-dcbb9e9d.pth')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('sys.argv', ['train.py', '-opt', str(FILES[name])])
    opt, _ = toolbox_options.parse_options(str(tmp_path), is_train=name in TRAIN)
    opt['num_gpu'] = 0
    said = read(name)
    opt['path']['pretrain_network_g'] = None
    check_network_options(name, opt['network_g'])
    model = build_model(opt)
    if name in TRAIN:
        flow = [parameter for key, parameter in model.net_g.named_parameters() if 'spynet' in key]
        assert bool(flow) == ('flow_lr_mul' in said['train']) == ('fix_flow' in said['train'])
        rates = {group['lr'] for group in model.optimizer_g.param_groups if group['params']}
        rate = said['train']['optim_g']['lr']
        assert rates == ({rate, rate * said['train']['flow_lr_mul']} if flow else {rate})
    else:
        assert list(said['val']['metrics']) == ['psnr', 'ssim']
