"""Drill: training that is killed, started twice at once, or runs out of disk; resumed, it gives the very weights.

    python scripts/drills/training.py --kills 20 --twice 5 --full 5 --seed 0

By turns plainly; with mixed precision, accumulation and checkpointing; on LMDBs of the layouts raw and tiles; and with
all of these and a loader worker. A run that was interrupted goes on by --auto_resume. Its weights and EMA weights must
be those of an undisturbed run, bit for bit.
"""

from __future__ import annotations

import contextlib
import copy
import runpy
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import basicsr.train  # noqa: F401  # imported once, before the processes fork
import torch
import yaml
from films import EFAR
from jobs import Job, make_clips, run_drill

from basicsr_plugins.data.lmdb_store import pack_lmdb
from basicsr_plugins.errors import run_script
from options import base_options

NUM_ITER = 12
NUM_FRAME = 6  # of a clip
SAVING = {'amp': 'bfloat16', 'accumulate': 2, 'checkpointing': True}
LOADING = {'uint8': True, 'num_worker_per_gpu': 1}
TURNS = {  # store of the clips, keys of datasets: train, keys of train
    'plain': ('folder', {}, {}),
    'amp, accumulate, checkpointing': ('folder', {}, SAVING),
    'raw': ('raw', {}, {}),
    'tiles': ('tiles', {}, {}),
    'all, with a loader worker': ('tiles', LOADING, SAVING),
}


def options_of(root: Path, store: str, loading: Mapping, train: Mapping) -> dict:
    """The options of a small training of EFAR that saves every third iteration."""
    options = copy.deepcopy(base_options(root))
    del options['datasets']['val'], options['val']
    suffix = '' if store == 'folder' else f'_{store}.lmdb'
    data = {'dataroot_gt': str(root / f'GT{suffix}'), 'dataroot_lq': str(root / f'BIx4{suffix}')}
    backend = {'type': 'disk' if store == 'folder' else 'lmdb'}
    options['datasets']['train'].update(data, io_backend=backend, num_frame=3, gt_size=48, **loading)
    options['network_g'] = dict(EFAR)
    options['train'].update(train, total_iter=NUM_ITER)
    options['train']['scheduler'].update(periods=[NUM_ITER])
    options['logger']['save_checkpoint_freq'] = 3
    return options


def training(path: Path) -> Callable[[], object]:
    """`python -m basicsr.train` with an option file, as a process's work."""

    def run() -> None:
        sys.argv = ['train.py', '-opt', str(path), '--auto_resume']
        runpy.run_module('basicsr.train', run_name='__main__', alter_sys=True)

    return run


def weights(folder: Path) -> dict[str, bytes] | None:
    """The bytes of the last weights and EMA weights."""
    path = folder / 'experiments' / 'drill' / 'models' / 'net_g_latest.pth'
    if not path.exists():
        return None
    kinds = torch.load(path, weights_only=True)
    return {f'{kind}.{name}': value.numpy().tobytes() for kind in kinds for name, value in kinds[kind].items()}


def make_jobs(root: Path) -> dict[str, Job]:
    make_clips(root, NUM_FRAME)
    jobs = {}
    for number, (turn, (store, *options)) in enumerate(TURNS.items()):
        for kind in ('GT', 'BIx4') if store != 'folder' else ():
            target = root / f'{kind}_{store}.lmdb'
            if not target.exists():
                with contextlib.redirect_stdout(sys.stderr):  # the table alone is the output
                    pack_lmdb(root / kind, target, num_worker=0, layout=store)
        path = root / f'{number}.yml'
        path.write_text(yaml.safe_dump(options_of(root, store, *options)), encoding='utf-8')
        jobs[turn] = Job(root, training(path), weights)
    return jobs


def main() -> int:
    """Run the drill; 0 if everything ended as it should."""
    torch.set_num_threads(1)
    return run_drill('training', __doc__, make_jobs)


if __name__ == '__main__':
    run_script(main)
