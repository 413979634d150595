#!/usr/bin/env python3
"""Time ways to compute an operation side by side in one run: modulated deformable convolution by each backend, or the
convolution to RGB that an upsampler ends with, after a pixel shuffle and in blocks of pixels (`archs.sub_pixel`).

    python scripts/benchmark_ops.py
    python scripts/benchmark_ops.py --operation last_conv
    python scripts/benchmark_ops.py --size 64x64 --batch 4 --deform-groups 8 --json dcn.json
    python scripts/benchmark_ops.py --device cuda --dtype float16

Every round runs each way once, so that a slow moment of the machine hits all of them; the table shows the medians of
the rounds, their ratio to those of torchvision or of the shuffle (above 1: faster), the largest difference to its
numbers relative to their largest, and the memory that a run takes at its peak on top of its inputs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr_plugins.archs.sub_pixel import conv_in_blocks, conv_of_shuffled
from basicsr_plugins.benchmark.machine import describe_machine, describe_versions
from basicsr_plugins.errors import InputError, run_script
from basicsr_plugins.files import parse_size, write_atomically
from basicsr_plugins.memory import PeakMemory, synchronize
from basicsr_plugins.ops.deform_conv import available_backends, modulated_deform_conv2d, select_backend
from basicsr_plugins.upscaling import choose_device

REFERENCES = ('torchvision', 'shuffle')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--operation', default='deform_conv', choices=('deform_conv', 'last_conv'))
    parser.add_argument('--device', default='cpu', help='cpu, cuda, cuda:1 ...')
    parser.add_argument('--dtype', default='float32', choices=('float16', 'bfloat16', 'float32', 'float64'))
    parser.add_argument('--size', default='180x320', help='height x width of the (LR) frame')
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--channels', type=int, default=64, help='of the input and of the output')
    parser.add_argument('--deform-groups', type=int, default=8)
    parser.add_argument('--offset', type=float, default=2.0, help='standard deviation of the offsets in pixels')
    parser.add_argument('--backends', nargs='+', help='default: all that can be imported')
    parser.add_argument('--repeat', type=int, default=5, help='rounds')
    parser.add_argument('--threads', type=int, help="default: torch's own")
    parser.add_argument('--json', type=Path, help='write the numbers to this file')
    args = parser.parse_args()
    args.size = parse_size(args.size, '--size')
    if args.repeat < 1:
        raise InputError(f'--repeat must be 1 or more, but is {args.repeat}.')
    choose_device(args.device)
    if args.operation == 'last_conv' and args.backends:
        raise InputError('--backends are of --operation deform_conv.')
    return args


def make_inputs(args: argparse.Namespace) -> list[Tensor]:
    """Random x, offset, mask, weight and bias of a 3x3 convolution that keeps the frame's size."""
    generator = torch.Generator().manual_seed(0)

    def sample(*shape):
        return torch.randn(*shape, generator=generator)

    taps = args.deform_groups * 9
    offset = sample(args.batch, 2 * taps, *args.size) * args.offset
    # Never a whole pixel: there the gradient has two sides, and rounding decides which one a backend gives.
    offset = ((offset * 64).floor() + 0.5) / 64
    tensors = (
        sample(args.batch, args.channels, *args.size),
        offset,
        sample(args.batch, taps, *args.size).sigmoid(),
        sample(args.channels, args.channels, 3, 3) / (9 * args.channels) ** 0.5,
        sample(args.channels),
    )
    return [t.to(args.device, getattr(torch, args.dtype)).requires_grad_() for t in tensors]


def make_operations(
    inputs: Sequence[Tensor], deform_groups: int, backend: str
) -> dict[str, Callable[[], list[Tensor]]]:
    """The two things to time: name -> function that returns the result and, for the second, the five gradients."""

    def convolve():
        return modulated_deform_conv2d(*inputs, padding=1, deform_groups=deform_groups, backend=backend)

    return with_gradients(convolve, inputs)


def with_gradients(compute: Callable[[], Tensor], inputs: Sequence[Tensor]) -> dict[str, Callable[[], list[Tensor]]]:
    def forward():
        with torch.no_grad():
            return [compute()]

    def forward_backward():
        out = compute()
        return [out.detach(), *torch.autograd.grad(out, inputs, out)]

    return {'forward': forward, 'forward+backward': forward_backward}


def make_last_convs(args: argparse.Namespace) -> dict[str, dict[str, Callable[[], list[Tensor]]]]:
    """What follows an upsampler's second convolution: (b, 4c, 2h, 2w) -> (b, 3, 4h, 4w); channels last."""
    torch.manual_seed(0)
    layout = {'device': args.device, 'dtype': getattr(torch, args.dtype), 'memory_format': torch.channels_last}
    conv = nn.Conv2d(args.channels, 3, 3, 1, 1).to(**layout)
    x = torch.randn(args.batch, 4 * args.channels, 2 * args.size[0], 2 * args.size[1]).to(**layout).requires_grad_()
    ways = {
        'shuffle': lambda: conv(F.pixel_shuffle(x, 2)),
        'shuffle, blocks': lambda: conv_in_blocks(conv, F.pixel_shuffle(x, 2), 2),
        'blocks': lambda: conv_of_shuffled(conv, x, 2),
    }
    return {name: with_gradients(compute, (x, *conv.parameters())) for name, compute in ways.items()}


def seconds(function: Callable, device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start


def peak_megabytes(function: Callable, device: torch.device) -> float | None:
    """Peak memory of one call on top of what is in use before it; None where the system does not tell."""
    with PeakMemory(device) as memory:
        function()
    return None if memory.bytes is None else memory.bytes / 2**20


def largest_difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Over the result and the gradients, the largest difference relative to the largest value."""
    return max(float((a - b).double().abs().max() / b.double().abs().max()) for a, b in zip(ours, theirs))


def measure(operations: Mapping[str, Callable], device: torch.device, repeat: int) -> dict[str, dict]:
    """Rows of the table for one operation: backend -> numbers."""
    rows = {}
    results = {}
    for backend, function in operations.items():
        results[backend] = function()
        rows[backend] = {'peak_mb': peak_megabytes(function, device)}
    times = {backend: [] for backend in operations}
    for _ in range(repeat):
        for backend, function in operations.items():
            times[backend].append(seconds(function, device))
    for backend, row in rows.items():
        row['ms'] = statistics.median(times[backend]) * 1e3
        for reference in operations.keys() & REFERENCES:
            row['speedup'] = statistics.median(times[reference]) / statistics.median(times[backend])
            row['difference'] = largest_difference(results[backend], results[reference])
    return rows


def print_rows(operation: str, rows: Mapping[str, dict]) -> None:
    print(f'\n{operation:<18}{"ms":>10}{"speed-up":>10}{"difference":>12}{"peak MB":>10}')
    for backend, row in rows.items():
        cells = [f'{row["ms"]:10.1f}']
        cells.append(f'{row["speedup"]:9.2f}x' if 'speedup' in row else f'{"-":>10}')
        cells.append(f'{row["difference"]:12.1e}' if 'difference' in row else f'{"-":>12}')
        cells.append(f'{row["peak_mb"]:10.0f}' if row['peak_mb'] is not None else f'{"-":>10}')
        print(f'{backend:<18}' + ''.join(cells))


def main() -> None:
    args = parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    report = {
        'command': ' '.join(sys.argv),
        'machine': describe_machine(device),
        'versions': describe_versions(),
        'setting': {name: value for name, value in vars(args).items() if name not in ('json', 'backends')},
    }
    for part in ('machine', 'versions'):
        print(', '.join(f'{name} {value}' for name, value in report[part].items()))
    print(', '.join(f'{name} {value}' for name, value in report['setting'].items()))
    if args.operation == 'last_conv':
        operations = make_last_convs(args)
    else:
        report['auto'] = select_backend(device)
        print(f"'auto' is {report['auto']}")
        inputs = make_inputs(args)
        backends = [select_backend(device, name) for name in args.backends or available_backends()]
        operations = {backend: make_operations(inputs, args.deform_groups, backend) for backend in backends}
    report['results'] = {}
    for operation in ('forward', 'forward+backward'):
        rows = measure({name: functions[operation] for name, functions in operations.items()}, device, args.repeat)
        report['results'][operation] = rows
        print_rows(operation, rows)
    if args.json:
        write_atomically(args.json, json.dumps(report, indent=2) + '\n')


if __name__ == '__main__':
    run_script(main)
