"""How fast EFAR and BasicVSR are upscaled by each runtime and dtype, against the toolbox's BasicVSR in PyTorch float32.

    python scripts/benchmark_inference.py                        # 320x180 -> 1280x720, this machine's CPU
    python scripts/benchmark_inference.py --runtimes openvino --dtypes bfloat16 --num-frame 5 --repeat 5
    python scripts/benchmark_inference.py --device cuda --runtimes torch compiled --dtypes float32 bfloat16 float16 \
        --num-frame 30 --json gpu.json

Weights are random: no time depends on them. All take turns in each repeat, so that what else the machine does hits all
alike; seconds are medians, ratios are medians of the ratios within one repeat. The first run of each, which converts
and compiles, is timed apart. Differences are to the same network in float32 on the first runtime. Beside the table are
the goals on a CPU of each network and dtype (see docs/measurements.md), with the best ratio of all runtimes. On another
device than the CPU the one runtime is PyTorch, and the toolbox's BasicVSR runs in float16 and bfloat16 by autocast too.
"""

import argparse
import copy
import itertools
import json
import math
import statistics
import time
from functools import partial
from pathlib import Path

import torch
from basicsr.archs import build_network

from basicsr_plugins.benchmark.machine import describe_machine, describe_versions
from basicsr_plugins.errors import InputError, run_script
from basicsr_plugins.files import parse_size, write_atomically
from basicsr_plugins.inference import UpscaleSettings, upscale_frames
from basicsr_plugins.inference.runtimes import on_runtime
from basicsr_plugins.inference.settings import precision
from basicsr_plugins.memory import PeakMemory
from basicsr_plugins.models.restoration import device_of
from basicsr_plugins.upscaling import choose_device

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}
TOOLBOX = "the toolbox's BasicVSR"
COMPILED = 'compiled'
AMX = 'amx_bf16' in (Path('/proc/cpuinfo').read_text() if Path('/proc/cpuinfo').exists() else '')
GOALS = {  # network and dtype -> ratio to the toolbox's BasicVSR in float32
    ('EFAR', 'float32'): 0.58,
    ('EFAR', 'bfloat16'): 0.20 if AMX else 0.33,
    ('BasicVSR', 'float32'): 0.55,
    ('BasicVSR', 'bfloat16'): 0.30,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--networks', nargs='+', default=['EFAR', 'BasicVSR'], choices=('EFAR', 'BasicVSR'))
    parser.add_argument('--runtimes', nargs='+', help='default: torch, on a CPU openvino and onnxruntime too')
    parser.add_argument('--dtypes', nargs='+', default=['float32', 'bfloat16'], choices=DTYPES)
    parser.add_argument('--size', default='180x320', help='of LR frames, HEIGHTxWIDTH')
    parser.add_argument('--num-frame', type=int, default=3)
    parser.add_argument('--num-feat', type=int, default=64)
    parser.add_argument('--num-block', type=int, default=30)
    parser.add_argument('--repeat', type=int, default=3)
    parser.add_argument('--device', default='cpu', help='cpu, cuda, cuda:1 ...')
    parser.add_argument('--json', type=Path, help='write the numbers to this file')
    args = parser.parse_args()
    choose_device(args.device)
    args.runtimes = args.runtimes or (['torch', 'openvino', 'onnxruntime'] if args.device == 'cpu' else ['torch'])
    frames = moving_frames(args.num_frame, parse_size(args.size, '--size'))
    runs = prepare(args)
    machine, rows = describe_machine(args.device), {}
    print(', '.join(str(value) for value in machine.values()))
    print(f'{"":<32}{"s/frame":>9}{"frames/s":>10}{"ratio":>8}{"MiB":>8}{"first (s)":>11}{"PSNR (dB)":>11}')
    times, first, outputs = {name: [] for name in runs}, {}, {}
    for repeat in range(args.repeat + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            output = run(frames)  # on the CPU, so that the device has done its work
            elapsed = time.perf_counter() - start
            if repeat:
                times[name].append(elapsed / len(frames))
            else:
                first[name] = elapsed
            outputs[name] = output
    best = {}
    for name, run in runs.items():
        with PeakMemory(args.device) as memory:
            run(frames)
        ratio = statistics.median(ours / theirs for ours, theirs in zip(times[name], times[TOOLBOX]))
        reference = outputs.get(f'{name.split(",")[0]}, {args.runtimes[0]}, float32')
        difference = '' if reference is None else psnr(outputs[name], reference)
        seconds, mebibytes = statistics.median(times[name]), (memory.bytes or 0) / 2**20
        rows[name] = {
            'seconds a frame': seconds,
            'frames a second': 1 / seconds,
            'ratio': ratio,
            'peak, MiB': mebibytes,
            'first run, seconds': first[name],
            'PSNR, dB': difference,
        }
        print(
            f'{name:<32}{seconds:>9.3f}{1 / seconds:>10.2f}{ratio:>8.2f}{mebibytes:>8.0f}{first[name]:>11.1f}'
            f'{difference:>11}',
            flush=True,
        )
        if not name.startswith(TOOLBOX):
            network, runtime, dtype = name.split(', ')
            best[network, dtype] = min(best.get((network, dtype), (math.inf, '')), (ratio, runtime))
    if args.json:
        setting = {name: value for name, value in vars(args).items() if name != 'json'}
        report = {'machine': machine, 'versions': describe_versions(), 'setting': setting, 'results': rows}
        write_atomically(args.json, json.dumps(report, indent=2) + '\n')
    for (network, dtype), (ratio, runtime) in best.items():
        goal = GOALS.get((network, dtype))
        if goal is not None and args.device == 'cpu':
            verdict = 'reached' if ratio <= goal else 'not reached'
            print(f'goal {network}, {dtype}: {goal:.2f}; {ratio:.2f} by {runtime}: {verdict}')


def prepare(args):
    """Name -> what restores a clip (t, 3, h, w); combinations that a runtime cannot do are left out, and said."""
    torch.manual_seed(0)
    options = {'num_feat': args.num_feat, 'num_block': args.num_block}
    nets = {name: build_network({'type': name, **options}).eval().to(args.device) for name in ('EFAR', 'BasicVSR')}
    toolbox = copy.deepcopy(nets['BasicVSR'])  # its weights stay as the toolbox lays them out
    runs = {TOOLBOX: lambda frames: whole_clip(toolbox, frames, torch.float32)}
    for dtype in args.dtypes if args.device != 'cpu' else ():
        if dtype != 'float32':
            runs[f'{TOOLBOX}, {dtype}'] = partial(whole_clip, toolbox, dtype=DTYPES[dtype])
    for network, runtime, dtype in itertools.product(args.networks, args.runtimes, args.dtypes):
        name = f'{network}, {runtime}, {dtype}'
        try:
            net = on_runtime(nets[network], 'torch' if runtime == COMPILED else runtime, DTYPES[dtype])
        except InputError as error:
            print(f'left out: {name}: {error}')
            continue
        runs[name] = partial(through_engine, net, dtype=DTYPES[dtype], compiled=runtime == COMPILED)
    return runs


@torch.no_grad()
def whole_clip(net, frames, dtype):
    device = device_of(net)
    with precision(device, dtype):
        return net(frames[None].to(device))[0].float().cpu()


def through_engine(net, frames, dtype, compiled=False):
    settings = UpscaleSettings(segment=len(frames), dtype=dtype, scene_cuts=False, compiled=compiled)
    return torch.stack([frame.cpu() for frame in upscale_frames(net, frames, settings)])


def moving_frames(number, size):
    """(t, 3, h, w): a smooth picture that moves by two pixels a frame."""
    h, w = size
    noise = torch.rand(1, 3, h // 8 + 2, (w + 2 * number) // 8 + 2, generator=torch.Generator().manual_seed(0))
    picture = torch.nn.functional.interpolate(noise, scale_factor=8, mode='bicubic').clamp(0, 1)[0]
    return torch.stack([picture[:, :h, 2 * i : 2 * i + w] for i in range(number)])


def psnr(output, reference):
    mse = (output - reference).double().square().mean().item()
    return 'the same' if mse == 0 else f'{-10 * math.log10(mse):.1f}'


if __name__ == '__main__':
    run_script(main)
