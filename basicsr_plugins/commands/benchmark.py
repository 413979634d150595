"""Compare networks of BasicSR's registry: how good, how fast, how big, and what it looks like.

    python scripts/benchmark.py --data datasets/Vid4 --config options/benchmark_Vid4.yml -o results/benchmark_Vid4
    python scripts/benchmark.py --data datasets/REDS4 --channel rgb --network options/train_EFAR_REDS.yml \\
        --network BasicVSR:num_feat=64,num_block=30@experiments/pretrained_models/BasicVSR_REDS4.pth
    python scripts/benchmark.py --data datasets/Vid4 --degradation bicubic --scale 2 2.5 3 4 3.5x2 --network ...
    python scripts/benchmark.py --data datasets/Vid4 --network theirs=frames:results/of_another_program
    torchrun --nproc_per_node=2 scripts/benchmark.py ...

Leaves results.csv, results.json and report.html in the output folder. Interrupted, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from basicsr_plugins.benchmark.clips import find_roots
from basicsr_plugins.benchmark.evaluation import Protocol
from basicsr_plugins.benchmark.methods import Method, NetworkMethod, parse_method
from basicsr_plugins.benchmark.runner import run_benchmark
from basicsr_plugins.benchmark.scales import run_scales, scales_table
from basicsr_plugins.benchmark.settings import Benchmark, ProfileSettings
from basicsr_plugins.benchmark.tables import terminal_table
from basicsr_plugins.data.any_scale import BICUBIC
from basicsr_plugins.errors import InputError
from basicsr_plugins.files import parse_size
from basicsr_plugins.models.entries import read_network_list
from basicsr_plugins.models.restoration import PADDING_MODES
from basicsr_plugins.scales import Scale, parse_scale
from basicsr_plugins.upscaling import choose_device


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='basicsr-plugins benchmark', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    group = parser.add_argument_group('networks')
    group.add_argument(
        '--network',
        action='append',
        default=[],
        metavar='[NAME=]TYPE[:KEY=VALUE,...][@CHECKPOINT]',
        help='a network of the registry, or an option file in place of TYPE; NAME=frames:FOLDER for frames that any '
        'program has restored (FOLDER/<clip>/<frame>.png); may be given several times',
    )
    group.add_argument('--config', type=Path, help='a YAML file with a list of networks, as options/benchmark_Vid4.yml')
    group.add_argument('--published', action='append', default=[], metavar='CSV', help='published numbers, beside ours')
    group = parser.add_argument_group('clips')
    group.add_argument('--data', type=Path, help='a test set: GT/ and BIx4/ of clips (or LMDBs), or SPMC-like clips')
    group.add_argument('--lq', type=Path, help='LQ clips, a folder or an LMDB, in place of --data')
    group.add_argument('--gt', type=Path, help='GT clips, likewise')
    group.add_argument('--clips', nargs='+', default=[], help='only these')
    group.add_argument('--max-frames', type=int, help='only the first frames of each clip')
    group.add_argument(
        '--scale',
        nargs='+',
        default=['4'],
        help='a factor, or two, horizontal by vertical, 3.5x2; several make one report of all',
    )
    group.add_argument('--degradation', choices=BICUBIC, help='make LQ of GT, at any scale')
    group.add_argument('--padding', default='reflection_circle', choices=PADDING_MODES, help='of windows at the ends')
    group = parser.add_argument_group('what counts')
    group.add_argument(
        '--channel', default='y', choices=('y', 'rgb'), help='of PSNR and SSIM; papers: Vid4 y, REDS4 rgb'
    )
    group.add_argument('--crop-border', type=int, default=0, help='pixels at each side that do not count')
    group.add_argument(
        '--frames', default='all', choices=('all', 'inner'), help='inner: without the first and last two'
    )
    group.add_argument('--lpips', action='store_true', help='LPIPS too, by the package lpips, with weights of AlexNet')
    group = parser.add_argument_group('cost')
    group.add_argument(
        '--untrained-in-cost-only', action='store_true', help='networks without a checkpoint restore no clips'
    )
    group.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:1 ...')
    group.add_argument('--no-profile', action='store_true', help='measure no cost')
    group.add_argument('--profile-size', default='180x320', help='height x width of the LQ frame')
    group.add_argument('--profile-frames', type=int, default=5, help='frames of the timed clip')
    group.add_argument('--profile-repeat', type=int, default=3, help='timed passes')
    parser.add_argument('-o', '--output', type=Path, default=Path('results/benchmark'), help='folder of the results')
    parser.add_argument('--fresh', action='store_true', help='measure anew what an earlier run has left there')
    parser.add_argument('--title', help="the report's; default: the test set's name")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        argv: Its arguments; None for those of the process.

    Raises:
        InputError: If the benchmark cannot be run as it is described.
    """
    args = parse_args(argv)
    methods = [parse_method(text) for text in args.network]
    if args.config is not None:
        methods += [NetworkMethod(entry) for entry in read_network_list(args.config)]
    scales = list(dict.fromkeys(parse_scale(text, '--scale') for text in args.scale))
    for name in ('max_frames', 'profile_frames', 'profile_repeat'):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f'--{name.replace("_", "-")} must be at least 1, but is {value}.')
    if args.crop_border < 0:
        raise InputError(f'--crop-border must not be negative, but is {args.crop_border}.')
    benchmarks = [make_benchmark(args, methods, scale, argv) for scale in scales]
    if len(benchmarks) > 1:
        found = run_scales(benchmarks, args.output)
        text = None if found is None else scales_table(found)
    else:
        results = run_benchmark(benchmarks[0])
        text = None if results is None else terminal_table(results)
    if text is not None:
        print(text)
        for name in ('results.csv', 'results.json', 'report.html'):
            print(args.output / name)


def make_benchmark(
    args: argparse.Namespace, methods: Sequence[Method], scale: Scale, argv: Sequence[str] | None
) -> Benchmark:
    """The benchmark of one scale."""
    lq_root, gt_root = clip_roots(args, scale)
    profile = ProfileSettings(parse_size(args.profile_size, '--profile-size'), args.profile_frames, args.profile_repeat)
    return Benchmark(
        out=args.output,
        others=methods,
        lq_root=lq_root,
        gt_root=gt_root,
        clip_names=args.clips,
        protocol=Protocol(
            y_channel=args.channel == 'y',
            crop_border=args.crop_border,
            inner_frames=args.frames == 'inner',
            max_frames=args.max_frames,
            padding=args.padding,
            scale=scale,
            degradation=args.degradation,
            lpips=args.lpips,
        ),
        device=device_name(args.device),
        profile=None if args.no_profile else profile,
        published=args.published,
        fresh=args.fresh,
        untrained_in_cost_only=args.untrained_in_cost_only,
        title=args.title or (args.data or gt_root).resolve().name,
        command=shlex.join(['python', *sys.argv] if argv is None else ['basicsr-plugins', 'benchmark', *argv]),
    )


def clip_roots(args: argparse.Namespace, scale: Scale) -> tuple[Path, Path]:
    """The folders of LQ and of GT; both that of GT where LQ is made of it."""
    if args.data is not None and (args.lq is not None or args.gt is not None):
        raise InputError('give either --data, or --lq and --gt.')
    if args.data is not None:
        return find_roots(args.data, scale, args.degradation)
    if args.degradation is not None and args.gt is not None and args.lq is None:
        return args.gt, args.gt
    if args.lq is None or args.gt is None:
        raise InputError('name the clips by --data, or by --lq and --gt.')
    return args.lq, args.gt


def device_name(name: str) -> str:
    """The device; under torchrun each process has a GPU of its own."""
    if name in ('auto', 'cuda') and 'LOCAL_RANK' in os.environ and torch.cuda.is_available():
        name = f'cuda:{os.environ["LOCAL_RANK"]}'
    return str(choose_device(name))
