"""The project's option files made small, training as a user starts it, and what it leaves."""

import csv
import re
import time
from pathlib import Path

import yaml

from basicsr_plugins.compat.options import SafeOptionLoader


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


def train(run_forked, checkout, options, *arguments):
    return run_forked('basicsr/train.py', '-opt', f'options/{options}', *arguments, cwd=checkout)


def train_until_killed(start_forked, checkout, command, state):
    """Start training as a user would, and kill it as soon as it has written `state`."""
    process = start_forked(*command, '--auto_resume', cwd=checkout)
    deadline = time.monotonic() + 300
    while not state.exists():
        assert process.poll() is None, process.output()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
