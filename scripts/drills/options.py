"""Drill: mutated option files, each trained with; it must refuse them in one sentence or train as if they were not.

    python scripts/drills/options.py --count 100 --seed 0

A key of the schema gets a value of another type or beyond its range, is left out or misspelt; or the file changes so
that it says the same; or some of its bytes change. Each file is trained with in a process of its own, as by
`python -m basicsr.train`. Right is: a refused file ends with exit code 1, one line of error and nothing written; one
that says the same gives the very weights; one of changed bytes does one or the other, or trains to its end.
"""

from __future__ import annotations

import argparse
import copy
import random
import runpy
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import basicsr.train  # noqa: F401  # imported once, before the processes fork
import cv2
import numpy as np
import torch
import yaml
from processes import finish, print_table, start

from basicsr_plugins.errors import run_script
from basicsr_plugins.option_file import file_schema
from basicsr_plugins.option_schema import Key, OptionError, Schema

VALUES = [True, 'abc', '8', -1.5, 2.5, -7, 10**12, [], ['a', 1], {}, {'a': 1}, None, float('inf'), float('nan'), '../x']
KINDS = ('wrong type', 'missing', 'misspelt', 'same', 'bytes')


def make_data(folder: Path) -> None:
    """Two clips of 3 frames: GT of 64x64, LQ of 16x16."""
    rng = np.random.default_rng(0)
    for clip in ('a', 'b'):
        for i in range(3):
            gt = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            for kind, image in (('GT', gt), ('LQ', gt[::4, ::4])):
                (folder / kind / clip).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder / kind / clip / f'{i:08d}.png'), image)


def base_options(folder: Path) -> dict:
    """A training of two iterations on `make_data`, with every section."""
    data = {'dataroot_gt': str(folder / 'GT'), 'dataroot_lq': str(folder / 'LQ'), 'io_backend': {'type': 'disk'}}
    sample = {'num_frame': 2, 'gt_size': 32, 'interval_list': [1], 'use_hflip': True, 'use_rot': True}
    sample |= {'uint8': True, 'degradation': None}
    faster = {'amp': 'none', 'accumulate': 1, 'checkpointing': False, 'max_skipped': 3, 'grad_clip': None}
    loader = {'num_worker_per_gpu': 0, 'batch_size_per_gpu': 1, 'dataset_enlarge_ratio': 1, 'prefetch_mode': None}
    optimizer = {'type': 'Adam', 'lr': 1e-3, 'weight_decay': 0, 'betas': [0.9, 0.99]}
    scheduler = {'type': 'CosineAnnealingRestartLR', 'periods': [2], 'restart_weights': [1], 'eta_min': 1e-7}
    return {
        'name': 'drill',
        'model_type': 'VSRModel',
        'scale': 4,
        'num_gpu': 0,
        'manual_seed': 0,
        'datasets': {
            'train': {'name': 'clips', 'type': 'VSRTrainDataset', **data, **sample, **loader},
            'val': {'name': 'val', 'type': 'VSRTestDataset', **copy.deepcopy(data)},
        },
        'network_g': {'type': 'MSRResNet', 'num_feat': 4, 'num_block': 1, 'upscale': 4},
        'path': {'pretrain_network_g': None, 'strict_load_g': True, 'resume_state': None},
        'train': {
            'ema_decay': 0.5,
            'optim_g': optimizer,
            'scheduler': scheduler,
            'total_iter': 2,
            'warmup_iter': -1,
            **faster,
            'pixel_opt': {'type': 'CharbonnierLoss', 'loss_weight': 1.0, 'reduction': 'mean', 'eps': 1e-12},
        },
        'val': {
            'val_freq': 2,
            'save_img': False,
            'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 0, 'test_y_channel': False}},
        },
        'logger': {'print_freq': 1, 'save_checkpoint_freq': 2, 'use_tb_logger': False, 'wandb': {'project': None}},
        'dist_params': {'backend': 'gloo', 'port': 29500},
    }


def walk(options: Mapping, schema: Schema, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Key]]:
    """Every key of a schema and of the sections below that are in the options, with the path to it."""
    for name in dict.fromkeys((*schema, *options)):
        key = schema.get(name, schema.get('*'))
        if name == '*' or key is None:
            continue
        yield (*path, name), key
        value = options.get(name)
        if isinstance(value, Mapping) and key.keys is not None:
            yield from walk(value, key.keys(value) if callable(key.keys) else key.keys, (*path, name))


def wrong_values(key: Key) -> list:
    """Values that a key must not have: of other types, and beyond its range."""
    numbers = [bound + step for bound in (key.low, key.high) if bound is not None for step in (-1, 1)]
    wrong = []
    for value in (*VALUES, *numbers, key.above, key.below):
        try:
            key.check(value, ('key',))
        except OptionError:
            wrong.append(value)
    return wrong


def mutate(options: dict, kind: str, rng: random.Random) -> tuple[str, str]:
    """A mutated option file and what was done to it; `kind` is one of `KINDS`."""
    options = copy.deepcopy(options)
    keys = list(walk(options, file_schema(options, is_train=True)))
    section = options
    if kind == 'wrong type':
        path, key = rng.choice([(path, key) for path, key in keys if wrong_values(key)])
    elif kind == 'missing':
        path, key = rng.choice([(path, key) for path, key in keys if key.required])
    else:
        path, key = rng.choice(
            [(path, key) for path, key in keys if _has(options, path) and 'metrics' not in path[-2:-1]]
        )
    for name in path[:-1]:
        section = section[name]
    said = f'{kind}: {": ".join(path)}'
    if kind == 'wrong type':
        section[path[-1]] = rng.choice(wrong_values(key))
        said += f' = {section[path[-1]]!r}'
    elif kind == 'missing':
        section.pop(path[-1], None)
    elif kind == 'misspelt':
        section[path[-1] + rng.choice('aez')] = section.pop(path[-1])
    elif kind == 'same':
        items = list(section.items())
        rng.shuffle(items)
        section.clear()
        section.update(items)
    text = yaml.safe_dump(options, sort_keys=False, default_flow_style=rng.choice([False, None]))
    if kind == 'bytes':
        data = bytearray(text.encode())
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(32, 127)
        text, said = data.decode(), kind
    return text, said


def _has(options: object, path: tuple[str, ...]) -> bool:
    for name in path:
        if not isinstance(options, Mapping) or name not in options:
            return False
        options = options[name]
    return True


def train(text: str, folder: Path) -> tuple[int, str]:
    """Train with an option file in a process of its own, in an empty folder; its exit code and standard error."""
    folder.mkdir()
    (folder / 'options.yml').write_text(text, encoding='utf-8')

    def work():
        sys.argv = ['train.py', '-opt', 'options.yml']
        runpy.run_module('basicsr.train', run_name='__main__', alter_sys=True)

    return finish(start(work, folder), folder)


def weights(folder: Path) -> dict | None:
    """The weights, and the EMA weights, that a training has left."""
    paths = list(folder.glob('experiments/*/models/net_g_latest.pth'))
    return torch.load(paths[0], weights_only=True) if len(paths) == 1 else None


def equal(first: dict, second: dict) -> bool:
    return all(torch.equal(first[kind][name], value) for kind in second for name, value in second[kind].items())


def outcome(kind: str, folder: Path, code: int, error: str, reference: dict) -> str:
    """`refused`, `exact` or `trained`; `wrong` where that is not right for this kind of mutation."""
    lines = [line for line in error.splitlines() if line.strip()]
    refused = code == 1 and len(lines) == 1 and lines[0].startswith('error: ')
    if refused and (kind == 'bytes' or (kind != 'same' and not (folder / 'experiments').exists())):
        return 'refused'
    left = weights(folder) if code == 0 else None
    if left is not None and kind in ('same', 'bytes'):
        return 'exact' if equal(left, reference) else 'trained' if kind == 'bytes' else 'wrong'
    if kind == 'bytes' and code == 1 and lines and lines[-1].startswith('error: ') and 'Traceback' not in error:
        return 'refused'  # after the log has begun: of data or files that are not there
    return 'wrong'


def main() -> int:
    """Run the drill; 0 if everything ended as it should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--count', type=int, default=100, help='mutated files')
    parser.add_argument('--seed', type=int, default=0, help='of the first; each has the next one')
    args = parser.parse_args()
    torch.set_num_threads(1)
    counts = Counter()
    with tempfile.TemporaryDirectory() as root:
        root = Path(root)
        make_data(root)
        options = base_options(root)
        train(yaml.safe_dump(options), root / 'reference')
        reference = weights(root / 'reference')
        for seed in range(args.seed, args.seed + args.count):
            kind = KINDS[seed % len(KINDS)]
            text, said = mutate(options, kind, random.Random(seed))
            code, error = train(text, root / str(seed))
            result = outcome(kind, root / str(seed), code, error, reference)
            counts[kind, result] += 1
            if result == 'wrong':
                print(f'seed {seed}, {said}: exit code {code}\n{error[-2000:]}', flush=True)
    return print_table({(f'option file, {kind}', result): count for (kind, result), count in counts.items()})


if __name__ == '__main__':
    run_script(main)
