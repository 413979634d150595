"""What a user types in a BasicSR checkout, on LMDBs of real clips, with the real SpyNet weights.

The option files are the project's own, made small enough for a test.
"""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from basicsr_plugins.compat.options import SafeOptionLoader

from .conftest import PROJECT

pytestmark = pytest.mark.usefixtures('shared')
CREATE_LMDB = PROJECT / 'scripts' / 'data_preparation' / 'create_lmdb.py'


@pytest.fixture(scope='module')
def lmdbs(shared, run, tmp_path_factory):
    """GT.lmdb and BIx4.lmdb of Vid4 calendar and city and of CDVL ntia_Aspen, packed by the project's script."""
    root = tmp_path_factory.mktemp('lmdbs')
    for kind in ('GT', 'BIx4'):
        for dataset in ('Vid4', 'CDVL'):
            for clip in (shared / 'data' / dataset / kind).iterdir():
                (root / kind).mkdir(exist_ok=True)
                (root / kind / clip.name).symlink_to(clip)
        run('python', CREATE_LMDB, 'folder', root / kind, root / f'{kind}.lmdb', cwd=root)
    return root


@pytest.fixture
def checkout(basicsr_checkout, lmdbs, shared):
    """A BasicSR checkout in which the option files' paths lead to the real clips and weights."""
    (basicsr_checkout / 'datasets' / 'REDS').mkdir()
    for name, kind in (('train_sharp_with_val', 'GT'), ('train_sharp_bicubic_with_val', 'BIx4')):
        (basicsr_checkout / 'datasets' / 'REDS' / f'{name}.lmdb').symlink_to(lmdbs / f'{kind}.lmdb')
    (basicsr_checkout / 'datasets' / 'Vid4').symlink_to(shared / 'data' / 'Vid4')
    for kind in ('GT', 'BIx4'):  # a short clip for what only has to run
        short = basicsr_checkout / 'datasets' / 'short' / kind / 'city'
        short.mkdir(parents=True)
        for path in sorted((shared / 'data' / 'Vid4' / kind / 'city').iterdir())[:6]:
            shutil.copy(path, short)
    weights = basicsr_checkout / 'experiments' / 'pretrained_models' / 'flownet'
    weights.mkdir(parents=True)
    (weights / 'spynet_sintel_final-3d2a1287.pth').symlink_to(shared / 'weights' / 'spynet_sintel_final.pth')
    return basicsr_checkout


def edit(path, changes):
    """Change an option file in place: keys are `section:key`."""
    opt = yaml.load(path.read_text(), Loader=SafeOptionLoader)
    for keys, value in changes.items():
        *sections, last = keys.split(':')
        section = opt
        for name in sections:
            section = section[name]
        section[last] = value
    yaml.add_representer(type(opt), yaml.representer.SafeRepresenter.represent_dict, yaml.SafeDumper)
    path.write_text(yaml.safe_dump(opt, sort_keys=False))


def shrink(path, **changes):
    """A training option file, small: the network, the patch, the number of iterations."""
    short = {'dataroot_gt': 'datasets/short/GT', 'dataroot_lq': 'datasets/short/BIx4', 'io_backend': {'type': 'disk'}}
    edit(
        path,
        {
            'datasets:train:val_partition': ['city'],
            'datasets:train:num_worker_per_gpu': 0,
            'datasets:train:batch_size_per_gpu': 1,
            'datasets:val': {'name': 'short', 'type': 'VSRTestDataset', **short},
            'datasets:train:gt_size': 256,
            'network_g:num_feat': 16,
            'network_g:num_block': 1,
            'train:total_iter': 2,
            'train:fix_flow': 2,
            'val:val_freq': 1000,
            'logger:print_freq': 1,
            'logger:save_checkpoint_freq': 1000,
            **changes,
        },
    )


def losses(folder):
    """iteration -> loss, from all the logs of an experiment."""
    text = ''.join(path.read_text() for path in sorted(Path(folder).glob('train_*.log')))
    found = re.findall(r'iter:\s*([\d,]+), .* l_pix: (\S+)', text)
    return {int(iteration.replace(',', '')): float(value) for iteration, value in found}


def last_metrics(path):
    """clip -> (psnr, ssim) of the last validation in a metrics.csv."""
    with open(path) as file:
        rows = list(csv.DictReader(file))
    last = rows[-1]['iter']
    return {row['clip']: (float(row['psnr']), float(row['ssim'])) for row in rows if row['iter'] == last}


def train(run, checkout, options, *arguments):
    return run('python', 'basicsr/train.py', '-opt', f'options/{options}', *arguments, cwd=checkout)


def train_until_killed(checkout, options, state):
    """Start training as a user would, and kill it as soon as it has written `state`."""
    command = [sys.executable, 'basicsr/train.py', '-opt', f'options/{options}', '--auto_resume']
    with open(checkout / 'killed.log', 'w') as log:
        process = subprocess.Popen(command, cwd=checkout, stdout=log, stderr=log)
        deadline = time.monotonic() + 300
        while not state.exists():
            assert process.poll() is None, (checkout / 'killed.log').read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_train_kill_resume_and_test(run, checkout):
    """Killed at some moment and resumed, training gives the losses of an undisturbed run; the test the same metrics."""
    options = checkout / 'options' / 'train_EFAR_REDS_5frames.yml'
    small = {'train:total_iter': 8, 'train:fix_flow': 3, 'logger:save_checkpoint_freq': 2, 'val:save_img': True}
    city = {'name': 'city', 'type': 'VSRTestDataset', 'io_backend': {'type': 'lmdb'}, 'val_partition': ['city']}
    city.update(dataroot_gt='datasets/REDS/train_sharp_with_val.lmdb')
    city.update(dataroot_lq='datasets/REDS/train_sharp_bicubic_with_val.lmdb')
    shrink(options, **small, **{'datasets:val': city})
    shutil.copy(options, checkout / 'options' / 'undisturbed.yml')
    edit(checkout / 'options' / 'undisturbed.yml', {'name': 'undisturbed', 'val': None})

    experiment = checkout / 'experiments' / 'EFAR_REDS_5frames'
    train_until_killed(checkout, options.name, experiment / 'training_states' / '4.state')
    resumed = train(run, checkout, options.name, '--auto_resume')
    assert re.search(r'Resuming training from epoch: 0, iter: [46]\.', resumed.stderr)
    train(run, checkout, 'undisturbed.yml')
    expected = losses(checkout / 'experiments' / 'undisturbed')
    assert sorted(expected) == list(range(1, 9))
    assert losses(experiment) == expected

    # images of the validation during training, and TensorBoard's file, are below the checkout
    assert len(list((experiment / 'visualization' / 'city' / 'city').glob('*_8.png'))) == 34
    assert list((checkout / 'tb_logger' / 'EFAR_REDS_5frames').glob('events*'))

    edit(
        checkout / 'options' / 'test_EFAR_Vid4.yml',
        {
            'datasets:test:val_partition': ['city'],
            'network_g:num_feat': 16,
            'network_g:num_block': 1,
            'path:pretrain_network_g': 'experiments/EFAR_REDS_5frames/models/net_g_latest.pth',
            'val:metrics:psnr:test_y_channel': False,
            'val:metrics:ssim:test_y_channel': False,
        },
    )
    run('python', 'basicsr/test.py', '-opt', 'options/test_EFAR_Vid4.yml', cwd=checkout)
    validated = last_metrics(experiment / 'metrics.csv')
    tested = last_metrics(checkout / 'results' / 'EFAR_Vid4' / 'metrics.csv')
    assert set(tested) == {'city', 'average'}
    for clip in tested:
        assert tested[clip] == pytest.approx(validated[clip], abs=5e-5)
    name = 'visualization/Vid4/city/00000033_EFAR_Vid4.png'
    assert (checkout / 'results' / 'EFAR_Vid4' / name).is_file()


def test_fifteen_frames(run, checkout):
    """Killed and resumed too."""
    options = checkout / 'options' / 'train_EFAR_REDS.yml'
    small = {'train:total_iter': 4, 'datasets:train:gt_size': 128, 'logger:save_checkpoint_freq': 2}
    shrink(options, **small)
    experiment = checkout / 'experiments' / 'EFAR_REDS'
    train_until_killed(checkout, options.name, experiment / 'training_states' / '2.state')
    resumed = train(run, checkout, options.name, '--auto_resume')
    assert re.search(r'Resuming training from epoch: 0, iter: [24]\.', resumed.stderr)
    assert sorted(losses(experiment)) == [1, 2, 3, 4]
    assert set(last_metrics(experiment / 'metrics.csv')) == {'city', 'average'}
    assert (experiment / 'models' / 'net_g_latest.pth').is_file()


@pytest.mark.parametrize('network', ['BasicVSR', 'IconVSR'])
def test_toolbox_networks(run, checkout, network):
    """They train and validate through the same datasets and model class."""
    options = checkout / 'options' / 'train_BasicVSR_REDS.yml'
    shrink(options, **{'network_g:type': network, 'datasets:train:num_frame': 5})
    train(run, checkout, options.name)
    experiment = checkout / 'experiments' / 'BasicVSR_REDS'
    assert sorted(losses(experiment)) == [1, 2]
    assert last_metrics(experiment / 'metrics.csv')['city'][0] > 20


def small_msffn(path, **changes):
    """A training option file of MSFFN, small."""
    edit(
        path,
        {
            'datasets:train:num_worker_per_gpu': 0,
            'datasets:train:batch_size_per_gpu': 2,
            'datasets:train:gt_size': 128,
            'datasets:val:dataroot_gt': 'datasets/short/GT',
            'datasets:val:dataroot_lq': 'datasets/short/BIx4',
            'datasets:val:io_backend': {'type': 'disk'},
            'network_g:num_feat': 16,
            'network_g:num_block': 2,
            'train:total_iter': 2,
            'val:metrics:tof': {'type': 'calculate_tof', 'crop_border': 0},
            'logger:print_freq': 1,
            **changes,
        },
    )


def test_msffn_on_reds_and_in_the_test(run, checkout):
    options = checkout / 'options' / 'train_MSFFN_REDS.yml'
    city = {'datasets:train:val_partition': ['city'], 'datasets:val:val_partition': ['city']}
    small_msffn(options, **city)
    train(run, checkout, options.name)
    experiment = checkout / 'experiments' / 'MSFFN_REDS'
    assert sorted(losses(experiment)) == [1, 2]
    edit(
        checkout / 'options' / 'test_MSFFN_Vid4.yml',
        {
            'datasets:test:dataroot_gt': 'datasets/short/GT',
            'datasets:test:dataroot_lq': 'datasets/short/BIx4',
            'network_g:num_feat': 16,
            'network_g:num_block': 2,
            'path:pretrain_network_g': 'experiments/MSFFN_REDS/models/net_g_latest.pth',
            'val:inner_frames': False,
            'val:metrics:psnr:test_y_channel': False,
            'val:metrics:ssim:test_y_channel': False,
        },
    )
    run('python', 'basicsr/test.py', '-opt', 'options/test_MSFFN_Vid4.yml', cwd=checkout)
    tested = last_metrics(checkout / 'results' / 'MSFFN_Vid4' / 'metrics.csv')['city']
    assert tested == pytest.approx(last_metrics(experiment / 'metrics.csv')['city'], abs=5e-5)
    with open(experiment / 'metrics.csv') as file:
        assert 0 < float(list(csv.DictReader(file))[-1]['tof']) < 10


def test_msffn_on_vimeo90k(run, checkout, shared):
    """Septuplets, cut from calendar, in the set's own layout, through the toolbox's dataset."""
    root = checkout / 'datasets' / 'vimeo90k'
    for folder, kind in (('vimeo_septuplet', 'GT'), ('vimeo_septuplet_matlabLRx4', 'BIx4')):
        frames = sorted((shared / 'data' / 'Vid4' / kind / 'calendar').iterdir())
        for sequence in range(3):
            target = root / folder / 'sequences' / '00001' / f'{sequence + 1:04d}'
            target.mkdir(parents=True)
            for i in range(7):
                shutil.copy(frames[7 * sequence + i], target / f'im{i + 1}.png')
    meta_info = root / 'meta_info_Vimeo90K_train_GT.txt'
    meta_info.write_text(''.join(f'00001/{sequence:04d} 7 (576,720,3)\n' for sequence in (1, 2, 3)))
    options = checkout / 'options' / 'train_MSFFN_Vimeo90K.yml'
    small_msffn(options)
    train(run, checkout, options.name)
    experiment = checkout / 'experiments' / 'MSFFN_Vimeo90K'
    assert sorted(losses(experiment)) == [1, 2]
    assert last_metrics(experiment / 'metrics.csv')['city'][0] > 20


def test_bicubic_on_vid4(run, checkout):
    """Published: calendar 20.39/0.5720 and city 25.16/0.6028, Y channel."""
    run('python', 'basicsr/test.py', '-opt', 'options/test_Bicubic_Vid4.yml', cwd=checkout)
    metrics = last_metrics(checkout / 'results' / 'Bicubic_Vid4' / 'metrics.csv')
    assert metrics['calendar'] == (pytest.approx(20.39, abs=0.01), pytest.approx(0.5720, abs=0.001))
    assert metrics['city'] == (pytest.approx(25.16, abs=0.01), pytest.approx(0.6028, abs=0.001))


def test_two_processes_equal_one(run, checkout):
    """gloo, on the CPU, with the same global batch: the same losses, weights and metrics, to float rounding."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = checkout / 'options' / 'train_EFAR_REDS_5frames.yml'
    shrink(options, **{'train:total_iter': 4, 'train:fix_flow': 3, 'datasets:train:gt_size': 128, 'num_gpu': 0})
    shutil.copytree(checkout / 'datasets' / 'short' / 'GT' / 'city', checkout / 'datasets' / 'short' / 'GT' / 'again')
    shutil.copytree(
        checkout / 'datasets' / 'short' / 'BIx4' / 'city', checkout / 'datasets' / 'short' / 'BIx4' / 'again'
    )
    shutil.copy(options, checkout / 'options' / 'two.yml')
    edit(options, {'name': 'one', 'datasets:train:batch_size_per_gpu': 2})
    edit(checkout / 'options' / 'two.yml', {'name': 'two', 'datasets:train:batch_size_per_gpu': 1})
    train(run, checkout, options.name)
    launch = ('python', '-m', 'torch.distributed.run', '--nproc_per_node=2', '--master_port', 29400 + os.getpid() % 500)
    command = ('basicsr/train.py', '-opt', 'options/two.yml', '--launcher', 'pytorch')
    run(*launch, *command, cwd=checkout, OMP_NUM_THREADS='1')

    def logged(name):
        events = EventAccumulator(str(checkout / 'tb_logger' / name)).Reload()
        return [event.value for event in events.Scalars('losses/l_pix')]

    one, two = logged('one'), logged('two')
    assert len(one) == 4
    assert two == pytest.approx(one, rel=1e-5)
    weights = [
        torch.load(checkout / 'experiments' / name / 'models' / 'net_g_latest.pth', weights_only=True)['params']
        for name in ('one', 'two')
    ]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=1e-5)
    metrics = [last_metrics(checkout / 'experiments' / name / 'metrics.csv') for name in ('one', 'two')]
    assert set(metrics[0]) == {'again', 'city', 'average'}
    assert set(metrics[1]) == set(metrics[0])
    for clip, values in metrics[0].items():
        assert metrics[1][clip] == pytest.approx(values, abs=1e-3)


def test_python_m_keeps_output_in_the_current_folder(run, checkout, tmp_path):
    import basicsr

    site_packages = Path(basicsr.__file__).parents[1]
    before = set(os.listdir(site_packages))
    shutil.rmtree(checkout / 'basicsr')  # not a checkout: just a folder with options and data
    options = checkout / 'options' / 'train_EFAR_REDS_5frames.yml'
    shrink(options, **{'train:total_iter': 1, 'datasets:train:gt_size': 64})
    run('python', '-m', 'basicsr.train', '-opt', f'options/{options.name}', cwd=checkout)
    run('python', '-m', 'basicsr.test', '-opt', 'options/test_Bicubic_Vid4.yml', cwd=checkout)
    for output in ('experiments/EFAR_REDS_5frames/models', 'tb_logger/EFAR_REDS_5frames', 'results/Bicubic_Vid4'):
        assert any((checkout / output).iterdir())
    assert set(os.listdir(site_packages)) == before


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            {'datasets:train:num_frmae': 5},
            "error: datasets: REDS: there is no key 'num_frmae'; did you mean 'num_frame'?",
        ),
        ({'datasets:train:num_frame': 99}, 'error: datasets: REDS: num_frame is 99 at interval 1, but no clip of '),
        ({'network_g:spynet_path': 'no.pth'}, 'error: spynet_path: there is no file no.pth; '),
    ],
)
def test_wrong_options_end_with_one_line(run, checkout, change, message):
    options = checkout / 'options' / 'train_EFAR_REDS_5frames.yml'
    shrink(options, **change)
    result = run('python', 'basicsr/train.py', '-opt', f'options/{options.name}', cwd=checkout, check=False)
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].startswith(message)
    assert 'Traceback' not in result.stderr
