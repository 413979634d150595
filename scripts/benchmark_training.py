#!/usr/bin/env python3
"""Time iterations of training, ours and the toolbox's, side by side in one run, and measure the memory they take.

    python scripts/benchmark_training.py
    python scripts/benchmark_training.py --size 16x16 --frames 3 --num-feat 16 --num-block 2 --rounds 5
    python scripts/benchmark_training.py --device cuda --batch 4 --compile --json training.json

The toolbox's row is its BasicVSR in its own model class, all others are `VSRModel`. Samples are noise, SpyNet trains
too, and each row is a process of its own. On a CPU each round runs one iteration of every row, so that a slow moment of
the machine hits all of them; on a GPU one row runs after the other. The table shows medians: seconds, seconds of all
cores together (which other work on the machine changes less), both as ratios to the toolbox's row, and the peak of
memory above the loaded network, with gradients and the state of Adam.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from basicsr_plugins.benchmark.machine import describe_machine, describe_versions
from basicsr_plugins.errors import InputError, one_line, run_script
from basicsr_plugins.files import parse_size, write_atomically
from basicsr_plugins.memory import PeakMemory, synchronize
from basicsr_plugins.upscaling import choose_device

REFERENCE = 'BasicVSR, toolbox'
MEBI = 2**20
# The GNU C library hands freed memory back at once, so that resident memory is what is in use.
ALLOCATOR = {'MALLOC_MMAP_THRESHOLD_': '65536', 'MALLOC_TRIM_THRESHOLD_': '65536'}


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--size', default='64x64', help='height x width of the LR patch')
    parser.add_argument('--frames', type=int, default=15)
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--num-feat', type=int, default=64)
    parser.add_argument('--num-block', type=int, default=30)
    parser.add_argument('--rounds', type=int, default=3, help='iterations that are timed, after two others')
    parser.add_argument('--compile', action='store_true', help='rows with torch.compile too')
    parser.add_argument('--rows', nargs='+', help='names of rows, default all')
    parser.add_argument('--device', default='cpu', help='cpu or cuda')
    parser.add_argument('--threads', type=int, help="default: torch's own")
    parser.add_argument('--json', type=Path, help='write the numbers to this file')
    args = parser.parse_args()
    args.size = parse_size(args.size, '--size')
    for name in ('frames', 'batch', 'rounds'):
        if getattr(args, name) < 1:
            raise InputError(f'--{name} must be 1 or more, but is {getattr(args, name)}.')
    choose_device(args.device)
    for name in args.rows or ():
        if name not in rows(args):
            raise InputError(f'--rows: there is no row {name!r}; there are {", ".join(rows(args))}.')
    return args


def rows(args: argparse.Namespace) -> dict[str, tuple[str, str, dict]]:
    """name -> model class, network, settings of `train`."""
    found = {REFERENCE: ('VideoRecurrentModel', 'BasicVSR', {})}
    precisions = ('none', 'bfloat16', *(['float16'] if args.device != 'cpu' else []))
    for network in ('BasicVSR', 'EFAR'):
        for amp in precisions:
            for checkpointing in (False, True):
                for compiled in (False, True) if args.compile else (False,):
                    name = f'{network}, {"float32" if amp == "none" else amp}'
                    name += ', checkpointing' * checkpointing + ', compile' * compiled
                    settings = {'amp': amp, 'checkpointing': checkpointing, 'compile': compiled}
                    found[name] = ('VSRModel', network, settings)
    return found


# ---------------------------------------------------------------------------- a process for each row


def options(args: argparse.Namespace, row: str) -> dict:
    model, network, settings = rows(args)[row]
    return {
        'name': 'benchmark_training',
        'model_type': model,
        'num_gpu': 0 if args.device == 'cpu' else 1,
        'is_train': True,
        'dist': False,
        'rank': 0,
        'scale': 4,
        'network_g': {'type': network, 'num_feat': args.num_feat, 'num_block': args.num_block},
        'path': {'models': '.'},
        'train': {
            'optim_g': {'type': 'Adam', 'lr': 1e-4, 'betas': [0.9, 0.99]},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [1000]},
            'total_iter': 1000,
            'pixel_opt': {'type': 'CharbonnierLoss', 'eps': 1e-16},
            **settings,
        },
    }


def serve(args: argparse.Namespace, row: str, connection: Connection) -> None:
    """Run iterations on demand: for `time` answer (seconds, seconds of all cores), for `memory` bytes."""
    import logging

    from basicsr.models import build_model

    logging.getLogger('basicsr').setLevel(logging.WARNING)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    try:
        model = build_model(options(args, row))
        h, w = args.size
        lq = torch.rand(args.batch, args.frames, 3, h, w)
        data = {'lq': lq, 'gt': torch.rand(args.batch, args.frames, 3, 4 * h, 4 * w)}
        number = 0

        def iterate(frames=None):
            nonlocal number
            number += 1
            model.feed_data({name: clip[:, :frames] for name, clip in data.items()})
            model.optimize_parameters(number)
            synchronize(args.device)

        for request in iter(connection.recv, 'end'):
            if request == 'memory':
                with PeakMemory(args.device) as memory:
                    iterate(2)  # after it there are gradients and the state of Adam
                    iterate()
                connection.send(memory.bytes)
            else:
                if not number:  # memory is mapped and Adam's state made once in a training
                    iterate()
                    iterate()
                start = time.perf_counter(), time.process_time()
                iterate()
                connection.send((time.perf_counter() - start[0], time.process_time() - start[1]))
    except torch.OutOfMemoryError as error:
        connection.send(one_line(error))


@contextmanager
def process(args: argparse.Namespace, row: str, **environment: str):
    """The connection to a process that serves a row."""
    before = dict(os.environ)
    os.environ.update(environment)
    context = multiprocessing.get_context('spawn')
    ours, theirs = context.Pipe()
    child = context.Process(target=serve, args=(args, row, theirs), daemon=True)
    child.start()
    os.environ.clear()
    os.environ.update(before)
    theirs.close()
    try:
        yield ours
    finally:
        if child.is_alive():
            ours.send('end')
        child.join()


def ask(connection: Connection, request: str):
    connection.send(request)
    return connection.recv()


def measure_times(args: argparse.Namespace, names: list[str]) -> dict[str, list]:
    """row -> what its iterations took."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        connections = {name: stack.enter_context(process(args, name)) for name in names}
        times = {name: [] for name in names}
        for _ in range(args.rounds):
            for name, connection in connections.items():
                times[name].append(ask(connection, 'time'))
        return times


def measure(args: argparse.Namespace) -> dict[str, dict]:
    """row -> its numbers."""
    names = args.rows or list(rows(args))
    found = {}
    for name in names:
        with process(args, name, **ALLOCATOR) as connection:
            peak = ask(connection, 'memory')
        if isinstance(peak, str):
            raise InputError(f'{name}: {peak}')
        found[name] = {'peak_mib': None if peak is None else peak / MEBI}
        print(f'{name}: peak of memory measured', file=sys.stderr, flush=True)
    groups = [names] if args.device == 'cpu' else [[name] for name in names]
    for group in groups:
        for name, times in measure_times(args, group).items():
            wall, cores = zip(*times)
            found[name].update(seconds=statistics.median(wall), core_seconds=statistics.median(cores))
    return found


def print_table(found: dict[str, dict]) -> None:
    print(f'\n| {"training":<38} | s/iteration | ratio | core-seconds | ratio | peak, MiB |')
    print(f'|{"-" * 40}|------------:|------:|-------------:|------:|----------:|')
    base = found.get(REFERENCE)
    for name, row in found.items():
        cells = []
        for key in ('seconds', 'core_seconds'):
            cells += [f'{row[key]:.3g}', f'{row[key] / base[key]:.2f}' if base else '-']
        peak = '-' if row['peak_mib'] is None else f'{row["peak_mib"]:.0f}'
        print(f'| {name:<38} | {cells[0]:>11} | {cells[1]:>5} | {cells[2]:>12} | {cells[3]:>5} | {peak:>9} |')


def main():
    args = parse_args()
    found = measure(args)
    machine = describe_machine(args.device)
    h, w = args.size
    print(f'{machine["gpu"] or machine["processor"]}, {args.threads or machine["threads"]} threads')
    print(', '.join(f'{name} {version}' for name, version in describe_versions().items()))
    print(f'batch {args.batch}, {args.frames} frames of {h}x{w}, num_feat {args.num_feat}, num_block {args.num_block}')
    print_table(found)
    if args.json:
        record = {'machine': machine, 'versions': describe_versions(), 'rows': found}
        record['settings'] = {key: str(value) for key, value in vars(args).items() if key != 'json'}
        write_atomically(args.json, json.dumps(record, indent=1) + '\n')


if __name__ == '__main__':
    run_script(main)
