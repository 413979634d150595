"""Taking training up again: from the newest state that loads, on any device."""

from __future__ import annotations

import warnings
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

import basicsr.train
import torch
from basicsr.models.base_model import BaseModel
from basicsr.utils import check_resume, get_root_logger
from basicsr.utils.dist_util import get_dist_info

from basicsr_plugins.compat.options import output_root
from basicsr_plugins.compat.rebind import wrap
from basicsr_plugins.errors import InputError, one_line
from basicsr_plugins.files import check_checksums

_LOCKS = {}  # path -> open file


def load_resume_state() -> None:
    """Resume without CUDA, and past damaged files; no two trainings write to one folder.

    BasicSR maps the state to the current CUDA device, in every version: RuntimeError without one. Its `--auto_resume`
    looks below the current folder, not below the root, and dies on a state that a crash left half-written. Here the
    newest state that loads, with its networks, is taken, and what was skipped is said. Two trainings of one name write
    into each other's files, in every version; here the second one is refused.
    """

    def make(original):
        def load(opt):
            # train_pipeline has just overwritten what parse_options gave; tb_logger goes below it
            opt['root_path'] = str(output_root(opt['root_path']))
            _lock(opt)
            if opt['auto_resume']:
                path, state = _newest_state(opt)
            elif opt['path'].get('resume_state'):
                path = Path(opt['path']['resume_state'])
                state = _load_state(opt, path)
            else:
                return None
            if state is None:
                return None
            opt['path']['resume_state'] = str(path)
            check_resume(opt, state['iter'])
            opt['datasets']['train']['resume'] = {'epoch': state['epoch'], 'iter': state['iter']}
            return state

        return load

    wrap(basicsr.train, 'load_resume_state', make)


def _lock(opt: dict) -> None:
    """Let no other training write to the experiment's folder as long as this process lives.

    The file stands beside the folder, which a training that starts afresh renames. The lock is of the process: its
    loader workers, which outlive a kill by seconds, do not have it, and the other ranks need none.

    Raises:
        InputError: If another training holds the lock.
    """
    if fcntl is None or get_dist_info()[0] != 0:
        return
    folder = Path(opt['path']['training_states']).parent
    path = folder.with_name(f'.{folder.name}.lock')
    if path in _LOCKS:  # closing the file again would release the lock
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, 'w')  # noqa: SIM115  # as long as the process lives
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise InputError(
            f'another training is writing {folder}; wait until it ends, or give this one another name.'
        ) from None
    _LOCKS[path] = file


def _newest_state(opt: dict) -> tuple[Path | None, dict | None]:
    """The newest training state of the experiment that loads, or (None, None) if there is no state at all."""
    folder = Path(opt['path']['training_states'])
    paths = sorted((path for path in folder.glob('*.state') if path.stem.isdigit()), key=lambda path: -int(path.stem))
    reason = ''
    for path in paths:
        try:
            return path, _load_state(opt, path)
        except InputError as error:
            reason = reason or str(error)
            if get_dist_info()[0] == 0:
                print(f'--auto_resume skips {path.name}: {error}', flush=True)
    if paths:
        raise InputError(f'--auto_resume: none of the {len(paths)} states in {folder} loads; {reason}')
    return None, None


def _load_state(opt: dict, path: Path) -> dict:
    """A training state and proof that the networks saved with it load.

    Raises:
        InputError: Naming the file that is missing or damaged.
    """
    state = _load(path)
    if not {'epoch', 'iter', 'optimizers', 'schedulers'} <= set(state):
        raise InputError(f'{path} is not a training state of BasicSR.')
    if not all(isinstance(state[name], int) and state[name] >= 0 for name in ('epoch', 'iter')):
        raise InputError(f'{path} has no whole numbers for epoch and iter.')
    ignored = opt['path'].get('ignore_resume_networks') or ()
    for network in (key for key in opt if key.startswith('network_') and key not in ignored):
        _load(Path(opt['path']['models']) / f'net_{network[len("network_") :]}_{state["iter"]}.pth')
    return state


def _load(path: Path) -> dict:
    if not path.is_file():
        raise InputError(f'there is no file {path}.')
    check_checksums(path)
    try:
        data = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # whatever torch's readers raise on a damaged file
        raise InputError(f'{path} does not load ({one_line(error)[:120]}).') from error
    if not isinstance(data, dict):
        raise InputError(f'{path} is not a checkpoint of BasicSR.')
    return data


def resume_training() -> None:
    """Resume with the schedule that the option file has now.

    BasicSR takes the saved one, in every version: with longer `periods` training goes on to the end of the old ones and
    dies there: TypeError. Where they differ, learning rates are those of a training that had the new schedule from its
    start. A state of a training with other parameter groups stops with one sentence.
    """

    def make(original):
        def resume(self, resume_state):
            fresh = [scheduler.state_dict() for scheduler in self.schedulers]
            try:
                original(self, resume_state)
            except (AssertionError, KeyError, ValueError) as error:
                where = self.opt['path'].get('resume_state')
                raise InputError(f'{where} is of a training with other options ({one_line(error)[:150]}).') from error
            if any(_differs(new, old) for new, old in zip(fresh, resume_state['schedulers'])):
                get_root_logger().info('The schedule is not the saved one; it counts from the first iteration on.')
                for scheduler, state in zip(self.schedulers, fresh):
                    scheduler.load_state_dict(state)
                _repeat_schedule(self, resume_state['iter'])

        return resume

    wrap(BaseModel, 'resume_training', make)


def _differs(new: dict, old: dict) -> bool:
    """Whether two states of a scheduler are of different schedules; where they stand in them does not count."""
    return any(old.get(key) != new[key] for key in new if not key.startswith('_') and key != 'last_epoch')


def _repeat_schedule(model: BaseModel, iterations: int) -> None:
    """Set schedulers and learning rates to where they would be after that many iterations."""
    for optimizer, scheduler in zip(model.optimizers, model.schedulers):
        for group, lr in zip(optimizer.param_groups, scheduler.base_lrs):
            group['lr'] = group['initial_lr'] = lr
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='Detected call of `lr_scheduler.step')  # before any optimizer.step()
        for current_iter in range(1, iterations + 1):
            model.update_learning_rate(current_iter, model.opt['train'].get('warmup_iter', -1))


PATCHES = (load_resume_state, resume_training)
