"""How fast EFAR and BasicVSR are upscaled by each runtime and dtype, against the toolbox's BasicVSR in PyTorch float32.

    python scripts/benchmark_inference.py                        # 320x180 -> 1280x720, this machine's CPU
    python scripts/benchmark_inference.py --runtimes openvino --dtypes bfloat16 --num-frame 5 --repeat 5

Weights are random: no time depends on them. All take turns in each repeat, so that what else the machine does hits all
alike; seconds are medians, ratios are medians of the ratios within one repeat. The first run of each, which converts
and compiles, is timed apart. Differences are to the same network in float32 on the first runtime. Beside the table are
the goals of each network and dtype (see docs/measurements.md), with the best ratio of all runtimes.
"""

import argparse
import copy
import itertools
import math
import statistics
import time
from pathlib import Path

import torch
from basicsr.archs import build_network

from basicsr_plugins.benchmark.machine import describe_machine
from basicsr_plugins.errors import InputError, run_script
from basicsr_plugins.files import parse_size
from basicsr_plugins.inference import UpscaleSettings, upscale_frames
from basicsr_plugins.inference.runtimes import on_runtime
from basicsr_plugins.memory import PeakMemory

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}
TOOLBOX = "the toolbox's BasicVSR"
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
    parser.add_argument('--runtimes', nargs='+', default=['torch', 'openvino', 'onnxruntime'])
    parser.add_argument('--dtypes', nargs='+', default=['float32', 'bfloat16'], choices=DTYPES)
    parser.add_argument('--size', default='180x320', help='of LR frames, HEIGHTxWIDTH')
    parser.add_argument('--num-frame', type=int, default=3)
    parser.add_argument('--num-feat', type=int, default=64)
    parser.add_argument('--num-block', type=int, default=30)
    parser.add_argument('--repeat', type=int, default=3)
    args = parser.parse_args()
    frames = moving_frames(args.num_frame, parse_size(args.size, '--size'))
    runs = prepare(args)
    print(', '.join(str(value) for value in describe_machine('cpu').values()))
    print(f'{"":<32}{"s/frame":>9}{"ratio":>8}{"MiB":>8}{"first (s)":>11}{"PSNR (dB)":>11}')
    times, first, outputs = {name: [] for name in runs}, {}, {}
    for repeat in range(args.repeat + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            output = run(frames)
            elapsed = time.perf_counter() - start
            if repeat:
                times[name].append(elapsed / len(frames))
            else:
                first[name] = elapsed
            outputs[name] = output
    best = {}
    for name, run in runs.items():
        with PeakMemory('cpu') as memory:
            run(frames)
        ratio = statistics.median(ours / theirs for ours, theirs in zip(times[name], times[TOOLBOX]))
        reference = outputs.get(f'{name.split(",")[0]}, {args.runtimes[0]}, float32')
        print(
            f'{name:<32}{statistics.median(times[name]):>9.2f}{ratio:>8.2f}{(memory.bytes or 0) / 2**20:>8.0f}'
            f'{first[name]:>11.1f}{"" if reference is None else psnr(outputs[name], reference):>11}',
            flush=True,
        )
        if name != TOOLBOX:
            network, runtime, dtype = name.split(', ')
            best[network, dtype] = min(best.get((network, dtype), (math.inf, '')), (ratio, runtime))
    for (network, dtype), (ratio, runtime) in best.items():
        goal = GOALS.get((network, dtype))
        if goal is not None:
            verdict = 'reached' if ratio <= goal else 'not reached'
            print(f'goal {network}, {dtype}: {goal:.2f}; {ratio:.2f} by {runtime}: {verdict}')


def prepare(args):
    """Name -> what restores a clip (t, 3, h, w); combinations that a runtime cannot do are left out, and said."""
    torch.manual_seed(0)
    options = {'num_feat': args.num_feat, 'num_block': args.num_block}
    nets = {name: build_network({'type': name, **options}).eval() for name in ('EFAR', 'BasicVSR')}
    toolbox = copy.deepcopy(nets['BasicVSR'])  # its weights stay as the toolbox lays them out
    runs = {TOOLBOX: lambda frames: whole_clip(toolbox, frames)}
    for network, runtime, dtype in itertools.product(args.networks, args.runtimes, args.dtypes):
        name = f'{network}, {runtime}, {dtype}'
        try:
            net = on_runtime(nets[network], runtime, DTYPES[dtype])
        except InputError as error:
            print(f'left out: {name}: {error}')
            continue
        runs[name] = lambda frames, net=net, dtype=dtype: through_engine(net, frames, DTYPES[dtype])
    return runs


@torch.no_grad()
def whole_clip(net, frames):
    return net(frames[None])[0]


def through_engine(net, frames, dtype):
    settings = UpscaleSettings(segment=len(frames), dtype=dtype, scene_cuts=False)
    return torch.stack(list(upscale_frames(net, frames, settings)))


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
