#!/usr/bin/env python3
"""Show that upscaling takes no more memory for a longer film.

    python scripts/benchmark_memory.py
    python scripts/benchmark_memory.py --network BasicVSR --size 64x96 --frames 100 1000 --json memory.json
    python scripts/benchmark_memory.py --device cuda --size 180x320 --num-feat 64 --num-block 30

Generated frames go through `upscale_frames` in both modes and, as far as `--whole` says, through the network all at
once, as in the toolbox. The table shows the peak of memory on top of what was in use before, after a first film of a
few frames: resident memory of the process on a CPU, memory of tensors on a GPU. Each measurement is a process of its
own. The last column is the longest film's peak over the shortest's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from basicsr_plugins.benchmark.machine import describe_machine, describe_versions
from basicsr_plugins.errors import InputError, run_script
from basicsr_plugins.files import parse_size, write_atomically
from basicsr_plugins.memory import PeakMemory
from basicsr_plugins.upscaling import choose_device

MODES = ('exact', 'stream')
MEBI = 2**20
# The GNU C library hands freed memory back at once, so that resident memory is what is in use.
ALLOCATOR = {'MALLOC_MMAP_THRESHOLD_': '65536', 'MALLOC_TRIM_THRESHOLD_': '65536'}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--network', default='EFAR', help='with num_feat and num_block, as EFAR or BasicVSR')
    parser.add_argument('--num-feat', type=int, default=16)
    parser.add_argument('--num-block', type=int, default=1)
    parser.add_argument('--size', default='48x64', help='height x width of the LR frames')
    parser.add_argument('--frames', type=int, nargs='+', default=[100, 300, 1000], help='lengths of the films')
    parser.add_argument('--whole', type=int, nargs='*', default=[30, 100], help='lengths to run all at once')
    parser.add_argument('--segment', type=int, default=10)
    parser.add_argument('--lookahead', type=int, default=5)
    parser.add_argument('--device', default='cpu', help='cpu, cuda, cuda:1 ...')
    parser.add_argument('--threads', type=int, help="default: torch's own")
    parser.add_argument('--json', type=Path, help='write the numbers to this file')
    parser.add_argument('--measure', nargs=2, metavar=('WAY', 'FRAMES'), help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.size = parse_size(args.size, '--size')
    for name in ('frames', 'whole'):
        if min(getattr(args, name), default=1) < 1:
            raise InputError(f'--{name} must be 1 or more, but is {min(getattr(args, name))}.')
    choose_device(args.device)
    return args


def generated_frames(number: int, size: tuple[int, int]) -> Iterator[Tensor]:
    """A picture that moves by three pixels a frame, (3, h, w)."""
    picture = torch.rand(3, *size, generator=torch.Generator().manual_seed(0)).mul(255).round().div(255)
    for i in range(number):
        yield picture.roll((i, 3 * i), dims=(1, 2))


def measure(args: argparse.Namespace, way: str, number: int) -> dict:
    """Peak memory in bytes and seconds of one way over one film, in this process."""
    from basicsr.archs import build_network

    from basicsr_plugins.inference import UpscaleSettings, upscale_frames

    torch.manual_seed(0)
    options = {'type': args.network, 'num_feat': args.num_feat, 'num_block': args.num_block}
    net = build_network(options).eval().to(args.device)

    def upscale(number):
        frames = generated_frames(number, args.size)
        if way == 'whole':
            with torch.no_grad():
                return net(torch.stack(list(frames)).unsqueeze(0).to(args.device))
        settings = UpscaleSettings(mode=way, segment=args.segment, lookahead=args.lookahead, scene_cuts=False)
        for frame in upscale_frames(net, frames, settings):
            del frame
        return None

    upscale(2 * args.segment + args.lookahead if way != 'whole' else 3)  # what libraries set up once
    start = time.perf_counter()
    with PeakMemory(args.device) as peak:
        upscale(number)
    return {'bytes': peak.bytes, 'seconds': time.perf_counter() - start}


def measure_apart(way: str, number: int) -> dict | None:
    """As `measure`, in a process of its own; None where that ended for lack of memory."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / 'result.json'
        command = [sys.executable, __file__, *sys.argv[1:], '--json', str(result), '--measure', way, str(number)]
        process = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **ALLOCATOR})
        if process.returncode == 0:
            return json.loads(result.read_text())
    if process.returncode == -9 or 'memory' in process.stderr.lower():
        return None
    raise InputError(f'measuring {way} on {number} frames failed: {process.stderr.strip()}.')


def print_table(results: Mapping[str, dict], lengths: Sequence[int]) -> None:
    print(f'\n{"peak in MiB":<14}' + ''.join(f'{f"{number} frames":>14}' for number in lengths) + f'{"ratio":>8}')
    for way, row in results.items():
        cells = []
        for number in lengths:
            measured = row.get(str(number), {})
            text = '-' if measured == {} else 'does not fit' if measured is None else _mebibytes(measured['bytes'])
            cells.append(f'{text:>14}')
        peaks = [measured['bytes'] for measured in row.values() if measured and measured['bytes']]
        ratio = f'{peaks[-1] / peaks[0]:8.2f}' if len(peaks) > 1 else f'{"-":>8}'
        print(f'{way:<14}' + ''.join(cells) + ratio, flush=True)


def _mebibytes(number):
    return '?' if number is None else f'{number / MEBI:.1f}'


def main() -> None:
    args = parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.measure:
        way, number = args.measure
        write_atomically(args.json, json.dumps(measure(args, way, int(number))))
        return
    report = {
        'command': ' '.join(sys.argv),
        'machine': describe_machine(args.device),
        'versions': describe_versions(),
        'setting': {name: value for name, value in vars(args).items() if name not in ('json', 'measure')},
        'results': {},
    }
    for part in ('machine', 'versions', 'setting'):
        print(', '.join(f'{name} {value}' for name, value in report[part].items()))
    for way in (*MODES, 'whole'):
        row = report['results'][way] = {}
        for number in sorted(args.whole if way == 'whole' else args.frames):
            row[str(number)] = measured = measure_apart(way, number)
            seconds = 'does not fit' if measured is None else f'{measured["seconds"]:.1f} s'
            print(f'{way}, {number} frames: {seconds}', flush=True)
    print_table(report['results'], sorted({*args.frames, *args.whole}))
    if args.json:
        write_atomically(args.json, json.dumps(report, indent=2) + '\n')


if __name__ == '__main__':
    run_script(main)
