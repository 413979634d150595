"""Drill: the benchmark, killed, started twice at once, or out of disk; it must end with the metrics of one undisturbed.

python scripts/drills/benchmark.py --kills 10 --twice 3 --full 6 --seed 0
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from basicsr.archs import build_network
from films import EFAR, NETWORK, OTHER
from jobs import Job, make_clips, run_drill

from basicsr_plugins.commands.benchmark import main as compare
from basicsr_plugins.errors import run_script

NUM_FRAME = 6  # of a clip


def benchmarking(root: Path) -> Callable[[], object]:
    """The command as a process's work: a small EFAR and the bicubic interpolation on two clips."""
    networks = ['--network', f'{NETWORK}@{root / "net.pth"}', '--network', OTHER]
    arguments = ['--data', str(root), '--channel', 'rgb', '--no-profile', '--device', 'cpu', '-o', 'results', *networks]
    return lambda: run_script(lambda: compare(arguments))


def measured(folder: Path) -> list | None:
    """Names, reasons of failures, and metrics; None where there is no table or no page of them."""
    paths = [folder / 'results' / name for name in ('results.json', 'results.csv', 'report.html')]
    if not all(path.exists() for path in paths):
        return None
    rows = json.loads(paths[0].read_text())['rows']
    return [[row[key] for key in ('name', 'error', 'clips', 'average')] for row in rows]


def make_jobs(root: Path) -> dict[str, Job]:
    make_clips(root, NUM_FRAME)
    torch.manual_seed(0)
    torch.save({'params': build_network(dict(EFAR)).state_dict()}, root / 'net.pth')
    return {'two networks': Job(root, benchmarking(root), measured)}


def main() -> int:
    """Run the drill; 0 if everything ended as it should."""
    torch.set_num_threads(1)
    return run_drill('benchmark', __doc__, make_jobs)


if __name__ == '__main__':
    run_script(main)
