"""EFAR trained with 15 frames, and from a folder that is no checkout."""

import os
import re
import shutil
from pathlib import Path

from .training import edit, last_metrics, losses, shrink, train, train_until_killed


def test_fifteen_frames(start_forked, run_forked, checkout):
    """Killed and resumed too."""
    options = checkout / 'options' / 'train_EFAR_REDS.yml'
    small = {'train:total_iter': 4, 'datasets:train:gt_size': 128, 'logger:save_checkpoint_freq': 2}
    shrink(options, **small)
    experiment = checkout / 'experiments' / 'EFAR_REDS'
    command = ('basicsr/train.py', '-opt', f'options/{options.name}')
    train_until_killed(start_forked, checkout, command, experiment / 'training_states' / '2.state')
    resumed = train(run_forked, checkout, options.name, '--auto_resume')
    assert re.search(r'Resuming training from epoch: 0, iter: [24]\.', resumed.stderr)
    assert sorted(losses(experiment)) == [1, 2, 3, 4]
    assert set(last_metrics(experiment / 'metrics.csv')) == {'city', 'average'}
    assert (experiment / 'models' / 'net_g_latest.pth').is_file()


def test_python_m_keeps_output_in_the_current_folder(run, checkout, tmp_path):
    import basicsr

    site_packages = Path(basicsr.__file__).parents[1]
    before = set(os.listdir(site_packages))
    shutil.rmtree(checkout / 'basicsr')  # not a checkout: just a folder with options and data
    options = checkout / 'options' / 'train_EFAR_REDS_5frames.yml'
    shrink(options, **{'train:total_iter': 1, 'datasets:train:gt_size': 64})
    run('python', '-m', 'basicsr.train', '-opt', f'options/{options.name}', cwd=checkout)
    short = {'datasets:test:dataroot_gt': 'datasets/short/GT', 'datasets:test:dataroot_lq': 'datasets/short/BIx4'}
    edit(checkout / 'options' / 'test_Bicubic_Vid4.yml', short)
    run('python', '-m', 'basicsr.test', '-opt', 'options/test_Bicubic_Vid4.yml', cwd=checkout)
    for output in ('experiments/EFAR_REDS_5frames/models', 'tb_logger/EFAR_REDS_5frames', 'results/Bicubic_Vid4'):
        assert any((checkout / output).iterdir())
    assert set(os.listdir(site_packages)) == before
