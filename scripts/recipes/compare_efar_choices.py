"""Train small EFARs that differ in one choice which the paper leaves open, and compare them on the held-out demo clips.

    python scripts/recipes/compare_efar_choices.py --iterations 250 --seeds 0 1

Runs in the project folder, on the demo clips that scripts/quickstart.sh makes. Prints a table and leaves it, with the
command and the machine, in results/efar_choices/choices.json. Interrupted, it goes on where it stopped.
"""

import argparse
import concurrent.futures
import json
import os
import statistics
import sys
from pathlib import Path

import yaml
from comparison import read_metrics
from training import train_with

from basicsr_plugins.benchmark.machine import describe_machine, describe_versions
from basicsr_plugins.errors import InputError, run_script
from basicsr_plugins.files import write_atomically

CHOICES = {
    'defaults': {},
    'dilations 1 1 1 1': {'dilations': [1, 1, 1, 1]},
    'dilations 1 2 4 8': {'dilations': [1, 2, 4, 8]},
    'deform_groups 2': {'deform_groups': 2},
    'coupled_propagation': {'coupled_propagation': True},
}
RESULTS = Path('results/efar_choices')
OPTIONS = Path('options/train_EFAR_demo.yml')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--iterations', type=int, default=250)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1])
    parser.add_argument('--jobs', type=int, default=os.cpu_count(), help='trainings at a time, of one thread each')
    args = parser.parse_args()
    if not Path('datasets/demo/GT.lmdb').is_dir():
        raise InputError('datasets/demo/GT.lmdb is missing; run bash scripts/quickstart.sh first.')

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
        'versions': describe_versions(),
        'machine': describe_machine('cpu'),
    }
    write_atomically(RESULTS / 'choices.json', json.dumps(record, indent=2) + '\n')
    print(RESULTS / 'choices.json')


def train(label: str, seed: int, iterations: int) -> float:
    """Train one of them; its average PSNR on the held-out clips."""
    opt = yaml.safe_load(OPTIONS.read_text(encoding='utf-8'))
    opt.update(name=f'choice_{label.replace(" ", "_")}_{iterations}_{seed}', manual_seed=seed)
    opt['network_g'].update(CHOICES[label])
    opt['train']['total_iter'] = iterations
    opt['train']['scheduler']['periods'] = [iterations]
    opt['val']['val_freq'] = iterations
    opt['logger']['save_checkpoint_freq'] = iterations
    psnr = read_metrics(train_with(opt, RESULTS) / 'metrics.csv')['average']['psnr']
    print(f'{label}, seed {seed}: {psnr:.3f} dB', flush=True)
    return psnr


if __name__ == '__main__':
    run_script(main)
