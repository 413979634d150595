"""Resuming with another schedule: learning rates are those of a training that had it from the start."""

import copy
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from basicsr.data import build_dataloader, build_dataset
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.models import build_model
from basicsr.models.base_model import BaseModel
from basicsr.train import load_resume_state

from basicsr_plugins.errors import InputError

from ..test_option_schema import drill

COSINE = {'type': 'CosineAnnealingRestartLR', 'periods': [12], 'restart_weights': [1], 'eta_min': 1e-7}
STEPS = {'type': 'MultiStepLR', 'milestones': [2, 5], 'gamma': 0.5}


def options(scheduler, total_iter=12, **train):
    opt = drill.base_options(Path('data'))
    opt['train'].update(scheduler=copy.deepcopy(scheduler), total_iter=total_iter, **train)
    opt['path']['log'] = 'nowhere'
    return {**opt, 'is_train': True, 'dist': False, 'rank': 0}


def rates(model, first, last):
    """The learning rates of these iterations."""
    found = []
    for current_iter in range(first, last + 1):
        model.update_learning_rate(current_iter, model.opt['train']['warmup_iter'])
        found.append(model.get_current_learning_rate())
    return found


def saved(model, iteration):
    """A state as `save_training_state` writes it."""
    return {
        'epoch': 0,
        'iter': iteration,
        'optimizers': [copy.deepcopy(optimizer.state_dict()) for optimizer in model.optimizers],
        'schedulers': [copy.deepcopy(scheduler.state_dict()) for scheduler in model.schedulers],
    }


@pytest.mark.filterwarnings('ignore:Detected call of')
@pytest.mark.parametrize('warmup_iter', [-1, 8])
@pytest.mark.parametrize(
    ('old', 'new'),
    [
        (COSINE, {**COSINE, 'periods': [16]}),
        (COSINE, {**COSINE, 'periods': [6, 10], 'restart_weights': [1, 0.5]}),
        (COSINE, COSINE),
        (COSINE, STEPS),
        (STEPS, {**STEPS, 'milestones': [4, 14]}),
        (STEPS, STEPS),
    ],
)
def test_rates_after_a_resume(old, new, warmup_iter):
    first = build_model(options(old, warmup_iter=warmup_iter))
    rates(first, 1, 10)
    whole = build_model(options(new, 16, warmup_iter=warmup_iter))
    resumed = build_model(options(new, 16, warmup_iter=warmup_iter))
    resumed.resume_training(saved(first, 10))
    last = 12 if new is COSINE else 16
    expected = rates(whole, 1, last)[10:]
    assert rates(resumed, 11, last) == expected
    assert min(expected) < max(expected) or new is STEPS


@pytest.mark.filterwarnings('ignore:Detected call of')
def test_the_toolbox_dies_at_the_end_of_the_old_periods():
    first = build_model(options(COSINE))
    rates(first, 1, 10)
    resumed = build_model(options({**COSINE, 'periods': [16]}, 16))
    BaseModel.resume_training.__wrapped__(resumed, saved(first, 10))
    with pytest.raises(TypeError):
        rates(resumed, 11, 16)


def test_a_state_of_other_parameter_groups():
    first = build_model(options(COSINE))
    resumed = build_model(options(COSINE, flow_lr_mul=0.5))
    with pytest.raises(InputError, match='is of a training with other options'):
        resumed.resume_training(saved(first, 0))


def test_lengthened_training_through_the_command(run_forked, tmp_path):
    """12 iterations, then 16: the second run ends, and its learning rates are those of the longer schedule."""
    drill.make_data(tmp_path)
    opt = drill.base_options(tmp_path)
    opt['train'].update(total_iter=12)
    opt['train']['scheduler']['periods'] = [12]
    opt.pop('val')
    opt['datasets'].pop('val')
    opt['logger']['save_checkpoint_freq'] = 4
    command = ['-m', 'basicsr.train', '-opt', 'options.yml', '--auto_resume']
    (tmp_path / 'options.yml').write_text(yaml.safe_dump(opt))
    run_forked(*command, cwd=tmp_path)

    opt['train'].update(total_iter=16)
    opt['train']['scheduler']['periods'] = [16]
    (tmp_path / 'options.yml').write_text(yaml.safe_dump(opt))
    log = run_forked(*command, cwd=tmp_path).stderr
    assert 'Resuming training from epoch' in log
    shown = {int(i): float(lr) for i, lr in re.findall(r'iter:\s*(\d+), lr:\(([^,]+),', log)}
    assert sorted(shown) == [13, 14, 15, 16]
    for i, lr in shown.items():
        cosine = 1 + torch.cos(torch.tensor(torch.pi * (i - 1) / 16, dtype=torch.float64)).item()
        assert lr == pytest.approx(1e-7 + 0.5 * (1e-3 - 1e-7) * cosine, rel=1e-3)
    state = torch.load(tmp_path / 'experiments' / 'drill' / 'training_states' / '16.state', weights_only=True)
    assert state['schedulers'][0]['periods'] == [16]
    assert state['schedulers'][0]['last_epoch'] == 15


def test_a_batch_larger_than_the_data(tmp_path):
    """The toolbox trains no step, says `End of training`, and ends with exit code 0."""
    drill.make_data(tmp_path)
    opt = {**drill.base_options(tmp_path)['datasets']['train'], 'phase': 'train', 'scale': 4}
    dataset = build_dataset(opt)
    sampler = EnlargedSampler(dataset, 1, 0)
    assert len(build_dataloader(dataset, {**opt, 'batch_size_per_gpu': 6}, 0, False, sampler, 0)) == 1
    with pytest.raises(InputError, match='clips: an epoch of 6 samples holds no batch of 7; lower batch_size_per_gpu'):
        build_dataloader(dataset, {**opt, 'batch_size_per_gpu': 7}, 0, False, sampler, 0)


def test_the_drill(run_forked, tmp_path):
    """Its first five files, each trained with in a process of its own."""
    table = run_forked(drill.__file__, '--count', 5, cwd=tmp_path).stdout
    assert '| option file, wrong type | refused | 1 |' in table
    assert '| option file, same | exact | 1 |' in table


HOLDS = """
import sys
from basicsr.train import load_resume_state
opt = {'root_path': '.', 'auto_resume': False, 'path': {'training_states': sys.argv[1]}}
assert load_resume_state(opt) is None
print('holds', flush=True)
sys.stdin.read()
"""


def test_two_trainings_of_one_name(tmp_path):
    """The second is refused as long as the first lives; killed, it leaves nothing that stands in the way."""
    opt = {'root_path': '.', 'auto_resume': False, 'path': {'training_states': str(tmp_path / 'name' / 'states')}}
    command = [sys.executable, '-W', 'ignore', '-c', HOLDS, opt['path']['training_states']]
    first = subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == 'holds\n'
    with pytest.raises(InputError, match=r'another training is writing .*name; wait until it ends, or give this one'):
        load_resume_state(opt)
    first.kill()
    first.communicate()
    assert load_resume_state(opt) is None
    assert load_resume_state(opt) is None  # this very process, a second time
