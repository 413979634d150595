"""MSFFN trained on REDS and on Vimeo-90K, and tested."""

import csv
import shutil

import pytest

from .training import edit, last_metrics, losses, train


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


def test_msffn_on_reds_and_in_the_test(run_forked, checkout):
    options = checkout / 'options' / 'train_MSFFN_REDS.yml'
    city = {'datasets:train:val_partition': ['city'], 'datasets:val:val_partition': ['city']}
    small_msffn(options, **city)
    train(run_forked, checkout, options.name)
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
    run_forked('basicsr/test.py', '-opt', 'options/test_MSFFN_Vid4.yml', cwd=checkout)
    tested = last_metrics(checkout / 'results' / 'MSFFN_Vid4' / 'metrics.csv')['city']
    assert tested == pytest.approx(last_metrics(experiment / 'metrics.csv')['city'], abs=5e-5)
    with open(experiment / 'metrics.csv') as file:
        assert 0 < float(list(csv.DictReader(file))[-1]['tof']) < 10


def test_msffn_on_vimeo90k(run_forked, checkout, shared):
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
    train(run_forked, checkout, options.name)
    experiment = checkout / 'experiments' / 'MSFFN_Vimeo90K'
    assert sorted(losses(experiment)) == [1, 2]
    assert last_metrics(experiment / 'metrics.csv')['city'][0] > 20
