"""EFAR trained on LMDBs of real clips, killed, resumed and tested."""

import re
import shutil

import pytest

from basicsr_plugins.data.lmdb_store import pack_lmdb

from .training import edit, last_metrics, losses, shrink, train, train_until_killed


def test_train_kill_resume_and_test(start_forked, run_forked, checkout):
    """Killed at some moment and resumed, training gives the losses of an undisturbed run; the test the same metrics."""
    options = checkout / 'options' / 'train_EFAR_REDS_5frames.yml'
    small = {'train:total_iter': 8, 'train:fix_flow': 3, 'logger:save_checkpoint_freq': 2, 'val:save_img': True}
    city = {'name': 'city', 'type': 'VSRTestDataset', 'io_backend': {'type': 'lmdb'}, 'val_partition': ['city']}
    for key, kind in (('dataroot_gt', 'GT'), ('dataroot_lq', 'BIx4')):
        city[key] = f'datasets/short_{kind}.lmdb'
        pack_lmdb(checkout / 'datasets' / 'short' / kind, checkout / city[key], num_worker=0)
    shrink(options, **small, **{'datasets:val': city})
    shutil.copy(options, checkout / 'options' / 'undisturbed.yml')
    edit(checkout / 'options' / 'undisturbed.yml', {'name': 'undisturbed', 'val': None})

    experiment = checkout / 'experiments' / 'EFAR_REDS_5frames'
    command = ('basicsr/train.py', '-opt', f'options/{options.name}')
    train_until_killed(start_forked, checkout, command, experiment / 'training_states' / '4.state')
    resumed = train(run_forked, checkout, options.name, '--auto_resume')
    assert re.search(r'Resuming training from epoch: 0, iter: [46]\.', resumed.stderr)
    train(run_forked, checkout, 'undisturbed.yml')
    expected = losses(checkout / 'experiments' / 'undisturbed')
    assert sorted(expected) == list(range(1, 9))
    assert losses(experiment) == expected

    # images of the validation during training, and TensorBoard's file, are below the checkout
    assert len(list((experiment / 'visualization' / 'city' / 'city').glob('*_8.png'))) == 6
    assert list((checkout / 'tb_logger' / 'EFAR_REDS_5frames').glob('events*'))

    edit(
        checkout / 'options' / 'test_EFAR_Vid4.yml',
        {
            'datasets:test:dataroot_gt': 'datasets/short/GT',
            'datasets:test:dataroot_lq': 'datasets/short/BIx4',
            'network_g:num_feat': 16,
            'network_g:num_block': 1,
            'path:pretrain_network_g': 'experiments/EFAR_REDS_5frames/models/net_g_latest.pth',
            'val:metrics:psnr:test_y_channel': False,
            'val:metrics:ssim:test_y_channel': False,
        },
    )
    run_forked('basicsr/test.py', '-opt', 'options/test_EFAR_Vid4.yml', cwd=checkout)
    validated = last_metrics(experiment / 'metrics.csv')
    tested = last_metrics(checkout / 'results' / 'EFAR_Vid4' / 'metrics.csv')
    assert set(tested) == {'city', 'average'}
    for clip in tested:
        assert tested[clip] == pytest.approx(validated[clip], abs=5e-5)
    name = 'visualization/Vid4/city/00000005_EFAR_Vid4.png'
    assert (checkout / 'results' / 'EFAR_Vid4' / name).is_file()
