"""Measure how fast training samples are read: each layout against the toolbox's REDSRecurrentDataset, in one run.

Clips of 1280x720 are made from the frames of --source: enlarged (Lanczos), cropped, and with grain, so that they
compress like camera frames. All contenders read the same clips, by turns; ratios are medians over the turns.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.utils import get_root_logger
from torch.utils.data import Dataset, default_collate
from tqdm import trange

from basicsr_plugins.benchmark.machine import describe_machine
from basicsr_plugins.data.augmentation import to_device_samples
from basicsr_plugins.data.bicubic_lr import make_bicubic_lr
from basicsr_plugins.data.demo_data import make_demo_data
from basicsr_plugins.data.frame_formats import LAYOUTS
from basicsr_plugins.data.lmdb_store import pack_lmdb
from basicsr_plugins.data.meta_info import clips_from_folder
from basicsr_plugins.data.preparation import encode_png
from basicsr_plugins.errors import run_script
from basicsr_plugins.files import write_atomically

HEIGHT, WIDTH, SCALE = 720, 1280, 4
CLIP_FRAMES = 100  # the toolbox's dataset takes no other number
REDS_FRAMES = 266 * CLIP_FRAMES
TOOLBOX = 'toolbox, png'


def main() -> None:
    """Make the clips, measure, and print the tables."""
    args = parse_args()
    torch.set_num_threads(1)
    get_root_logger(log_level='ERROR')
    if args.work is not None:
        benchmark(Path(args.work), args)
    else:
        with tempfile.TemporaryDirectory(prefix='benchmark_data_') as work:
            benchmark(Path(work), args)


def benchmark(root: Path, args: argparse.Namespace) -> None:
    """Make and pack the clips below `root`, as far as they are not there, and measure."""
    if args.source is None:
        make_demo_data(root / 'demo')
    make_clips(Path(args.source or root / 'demo' / 'GT'), root / 'GT', args.clips, args.grain)
    make_bicubic_lr(root / 'GT', root / 'LQ', SCALE)
    sizes = pack(root)
    options = {name: dataset_options(root, name) for name in contenders()}
    alone = measure_alone(options, args.rounds)
    loaded = measure_loader(options, args.rounds, args.workers, args.batch_size)
    print_report(args, sizes, alone, loaded)


def parse_args() -> argparse.Namespace:
    """The arguments of the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--source', help='folder of clips with natural texture; default: the demo dataset')
    parser.add_argument('--clips', type=int, default=1, help='of 100 frames; default: %(default)s')
    parser.add_argument(
        '--grain', type=float, default=1.0, help='standard deviation, grey levels; default: %(default)s'
    )
    parser.add_argument('--rounds', type=int, default=5, help='turns of each contender; default: %(default)s')
    parser.add_argument('--workers', type=int, default=2, help='of the DataLoader; default: %(default)s')
    parser.add_argument('--batch-size', type=int, default=4, help='of the DataLoader; default: %(default)s')
    parser.add_argument('--work', help='folder to keep the clips in, 1 GB each, for another run; default: none')
    return parser.parse_args()


def make_clips(source: Path, target: Path, num_clip: int, grain: float) -> None:
    """Clips of 100 frames, from the frames of `source` forth and back, with new grain in each."""
    paths = [source / clip.name / frame for clip in clips_from_folder(source) for frame in clip.frames]
    rng = np.random.default_rng(0)
    for clip in range(num_clip):
        own = paths[clip % len(paths) :][: CLIP_FRAMES // 2]
        (target / f'{clip:03d}').mkdir(parents=True, exist_ok=True)
        for frame in range(CLIP_FRAMES):
            path = target / f'{clip:03d}' / f'{frame:08d}.png'
            if path.is_file():
                continue
            image = cv2.imread(str((own + own[::-1])[frame % (2 * len(own))]))
            zoom = max(HEIGHT / image.shape[0], WIDTH / image.shape[1])
            image = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_LANCZOS4)[:HEIGHT, :WIDTH]
            image = image + rng.normal(0, grain, image.shape)
            image = image.round().clip(0, 255).astype(np.uint8)
            write_atomically(path, encode_png(image))


def pack(root: Path) -> dict[tuple[str, str], float]:
    """Pack all layouts; bytes per frame of each, for GT and LQ."""
    sizes = {}
    clips = [clip.name for clip in clips_from_folder(root / 'GT')]
    for kind in ('GT', 'LQ'):
        for layout in LAYOUTS:
            lmdb_path = root / f'{kind}_{layout}.lmdb'
            pack_lmdb(root / kind, lmdb_path, layout=layout)
            sizes[kind, layout] = (lmdb_path / 'data.mdb').stat().st_size / (len(clips) * CLIP_FRAMES)
        # LMDB opens a file once in a process, and the toolbox another way than we
        shutil.copytree(root / f'{kind}_png.lmdb', root / f'{kind}_toolbox.lmdb', dirs_exist_ok=True)
    write_atomically(root / 'meta_info.txt', ''.join(f'{clip} {CLIP_FRAMES} ({HEIGHT},{WIDTH},3)\n' for clip in clips))
    return sizes


def contenders() -> list[str]:
    """The toolbox, then each layout with floats from the dataset and with uint8."""
    return [TOOLBOX, *(f'{layout}, {kind}' for layout in LAYOUTS for kind in ('float', 'uint8'))]


def dataset_options(root: Path, name: str) -> dict:
    """The section `datasets.train` of a contender."""
    layout, _, kind = name.partition(', ')
    options = {
        'name': name,
        'type': 'REDSRecurrentDataset' if name == TOOLBOX else 'VSRTrainDataset',
        'phase': 'train',
        'scale': SCALE,
        'dataroot_gt': str(root / f'GT_{layout}.lmdb'),
        'dataroot_lq': str(root / f'LQ_{layout}.lmdb'),
        'meta_info_file': str(root / 'meta_info.txt'),
        'val_partition': 'official',
        'test_mode': False,
        'io_backend': {'type': 'lmdb'},
        'num_frame': 15,
        'gt_size': 256,
        'interval_list': [1],
        'random_reverse': False,
        'use_hflip': True,
        'use_rot': True,
    }
    return options if name == TOOLBOX else {**options, 'val_partition': None, 'uint8': kind == 'uint8'}


def measure_alone(options: Mapping[str, dict], rounds: int) -> dict[str, list[float]]:
    """Seconds per sample in each round, in this process: from the dataset, and (`+ device`) as floats for a network."""
    datasets = {name: build_dataset(opt) for name, opt in options.items()}
    times = {key: [] for name in options for key in (name, f'{name} + device')}
    rng = random.Random(0)
    for number in trange(rounds + 1, desc='datasets', unit='round'):  # the first one fills caches
        for name, dataset in datasets.items():
            indices = [rng.randrange(len(dataset)) for _ in range(2 if 'png' in name else 20)]
            plain = clock(lambda dataset=dataset, indices=indices: [dataset[i] for i in indices])
            moved = clock(lambda dataset=dataset, indices=indices: [on_device(dataset, i) for i in indices])
            if number:
                times[name].append(plain / len(indices))
                times[f'{name} + device'].append(moved / len(indices))
    return times


def on_device(dataset: Dataset, index: int) -> dict:
    """A batch of one sample, as the model makes it."""
    return to_device_samples(default_collate([dataset[index]]), 'cpu')


def measure_loader(options: Mapping[str, dict], rounds: int, workers: int, batch_size: int) -> dict[str, list[float]]:
    """Seconds per sample in each round, through the toolbox's loader with workers."""
    times = {name: [] for name in options}
    for number in trange(rounds, desc='loader', unit='round'):
        for name, opt in options.items():
            opt = {**opt, 'io_backend': dict(opt['io_backend'])}
            opt.update(num_worker_per_gpu=workers, batch_size_per_gpu=batch_size)
            dataset = build_dataset(opt)
            sampler = EnlargedSampler(dataset, 1, 0, ratio=100)
            loader = iter(build_dataloader(dataset, opt, num_gpu=0, sampler=sampler, seed=number))
            for _ in range(2 * workers):  # what was read ahead
                next(loader)
            num_batch = 2 * workers if 'png' in name else 40
            seconds = clock(
                lambda loader=loader, num_batch=num_batch: [next(loader) and None for _ in range(num_batch)]
            )
            times[name].append(seconds / (num_batch * batch_size))
            del loader
    return times


def clock(function: Callable[[], object]) -> float:
    """Wall time of a call, in seconds."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def print_report(args: argparse.Namespace, sizes: Mapping, alone: Mapping, loaded: Mapping) -> None:
    """Tables in Markdown."""
    processor = describe_machine('cpu')['processor']
    print(f'\n{processor}, {os.cpu_count()} cores; PyTorch with one thread')
    print(f'{args.clips} clips of {CLIP_FRAMES} frames, in the page cache; samples of 15 frames, GT patch 256')
    print(f'medians of {args.rounds} rounds by turns; loader: {args.workers} workers, batches of {args.batch_size}\n')
    print('| layout, samples | dataset, samples/s | | scaled on this CPU | | loader | |')
    print('|---|---|---|---|---|---|---|')
    for name in contenders():
        columns = [
            (alone[name], alone[TOOLBOX]),
            (alone[f'{name} + device'], alone[f'{TOOLBOX} + device']),
            (loaded[name], loaded[TOOLBOX]),
        ]
        cells = [f'{1 / statistics.median(own):.1f} | {ratio(own, base):.1f}x' for own, base in columns]
        print(f'| {name} | {" | ".join(cells)} |')
    print('\n| layout | GT frame | LQ frame | to png | REDS, 266 clips: GT | LQ |\n|---|---|---|---|---|---|')
    for layout in LAYOUTS:
        gt, lq = sizes['GT', layout], sizes['LQ', layout]
        share = (gt + lq) / (sizes['GT', 'png'] + sizes['LQ', 'png'])
        reds = [f'{size * REDS_FRAMES / 1e9:.1f} GB' for size in (gt, lq)]
        print(f'| {layout} | {gt / 1e3:.0f} kB | {lq / 1e3:.0f} kB | {share:.2f} | {reds[0]} | {reds[1]} |')


def ratio(own: list[float], base: list[float]) -> float:
    """How many times as fast, as the median over the rounds."""
    return statistics.median(b / o for o, b in zip(own, base))


if __name__ == '__main__':
    run_script(main)
