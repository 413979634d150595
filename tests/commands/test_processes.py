"""Several processes train as one does, and wrong options end a training with one line."""

import os
import re
import shutil

import pytest
import torch

from .training import edit, last_metrics, shrink, train


def test_two_processes_equal_one(run, run_forked, checkout):
    """gloo, on the CPU, with the same global batch: the same losses, weights and metrics, to float rounding.

    The two recompute their steps and take their batch in two parts, with the flow network fixed and trained.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = checkout / 'options' / 'train_EFAR_REDS_5frames.yml'
    shrink(options, **{'train:total_iter': 4, 'train:fix_flow': 3, 'datasets:train:gt_size': 128, 'num_gpu': 0})
    shutil.copytree(checkout / 'datasets' / 'short' / 'GT' / 'city', checkout / 'datasets' / 'short' / 'GT' / 'again')
    shutil.copytree(
        checkout / 'datasets' / 'short' / 'BIx4' / 'city', checkout / 'datasets' / 'short' / 'BIx4' / 'again'
    )
    shutil.copy(options, checkout / 'options' / 'two.yml')
    edit(options, {'name': 'one', 'datasets:train:batch_size_per_gpu': 4})
    edit(checkout / 'options' / 'two.yml', {'name': 'two', 'train:accumulate': 2, 'train:checkpointing': True})
    train(run_forked, checkout, options.name)
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


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            {'datasets:train:num_frmae': 5},
            r"error: options/train_EFAR_REDS_5frames\.yml:\d+: datasets: train: there is no key 'num_frmae'; did",
        ),
        (
            {'datasets:train:num_frame': 99},
            r'error: options/\S+\.yml:\d+: datasets: REDS: num_frame is 99 at interval 1, but no clip of ',
        ),
        ({'network_g:spynet_path': 'no.pth'}, r'error: options/\S+\.yml:\d+: spynet_path: there is no file no.pth; '),
    ],
)
def test_wrong_options_end_with_one_line(run_forked, checkout, change, message):
    options = checkout / 'options' / 'train_EFAR_REDS_5frames.yml'
    shrink(options, **change)
    result = run_forked('basicsr/train.py', '-opt', f'options/{options.name}', cwd=checkout, check=False)
    assert result.returncode == 1
    assert re.match(message, result.stderr.strip().splitlines()[-1])
    assert 'Traceback' not in result.stderr
