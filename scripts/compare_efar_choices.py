"""Train small EFARs that differ in one choice which the paper leaves open, and compare them on the held-out demo clips.

    python scripts/compare_efar_choices.py --iterations 250 --seeds 0 1

Runs in the project folder, on the demo clips that scripts/quickstart.sh makes. Prints a table and leaves it, with the
command and the machine, in results/efar_choices/choices.json.
"""

import argparse
import concurrent.futures
import copy
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

import torch
import yaml

from basicsr_plugins.benchmark.comparison import read_metrics
from basicsr_plugins.errors import InputError, run_script

CHOICES = {
    'defaults': {},
    'dilations 1 1 1 1': {'dilations': [1, 1, 1, 1]},
    'dilations 1 2 4 8': {'dilations': [1, 2, 4, 8]},
    'deform_groups 2': {'deform_groups': 2},
    'coupled_propagation': {'coupled_propagation': True},
}
RESULTS = Path('results/efar_choices')
OPTIONS = Path('options/train_EFAR_demo.yml')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--iterations', type=int, default=250)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1])
    parser.add_argument('--jobs', type=int, default=os.cpu_count(), help='trainings at a time, of one thread each')
    args = parser.parse_args()
    if not Path('datasets/demo/GT.lmdb').is_dir():
        raise InputError('datasets/demo/GT.lmdb is missing; run bash scripts/quickstart.sh first')

    runs = [(label, seed) for seed in args.seeds for label in CHOICES]
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        scores = dict(zip(runs, pool.map(lambda run: train(*run, args.iterations), runs)))
    rows = {label: [scores[label, seed] for seed in args.seeds] for label in CHOICES}
    print(f'\nheld-out PSNR (RGB) after {args.iterations} iterations, seeds {args.seeds}')
    for label, values in rows.items():
        print(f'{label:<28}{statistics.mean(values):8.3f}   ({", ".join(f"{value:.3f}" for value in values)})')
    record = {
        'command': ' '.join(sys.argv),
        'iterations': args.iterations,
        'seeds': args.seeds,
        'psnr': rows,
        'torch': torch.__version__,
        'machine': f'{platform.machine()}, {os.cpu_count()} cores',
    }
    (RESULTS / 'choices.json').write_text(json.dumps(record, indent=2) + '\n')
    print(RESULTS / 'choices.json')


def train(label: str, seed: int, iterations: int) -> float:
    """Train one of them by BasicSR's own trainer; its average PSNR on the held-out clips."""
    name = f'choice_{label.replace(" ", "_")}_{seed}'
    opt = copy.deepcopy(yaml.safe_load(OPTIONS.read_text()))
    opt.update(name=name, manual_seed=seed)
    opt['network_g'].update(CHOICES[label])
    opt['train']['total_iter'] = iterations
    opt['train']['scheduler']['periods'] = [iterations]
    opt['val']['val_freq'] = iterations + 1  # the trainer validates at its end
    opt['logger']['save_checkpoint_freq'] = iterations + 1
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f'{name}.yml'
    path.write_text(yaml.safe_dump(opt, sort_keys=False))
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'OMP_WAIT_POLICY': 'passive'}
    command = [sys.executable, '-W', 'ignore', '-m', 'basicsr.train', '-opt', str(path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode != 0:
        raise InputError(f'{" ".join(command)} failed: {result.stderr.strip().splitlines()[-1]}')
    psnr = read_metrics(Path('experiments') / name / 'metrics.csv')['average']['psnr']
    print(f'{label}, seed {seed}: {psnr:.3f} dB', flush=True)
    return psnr


if __name__ == '__main__':
    run_script(main)
