"""Choose a small EFAR: train candidates for the same time, and compare what they reach with what a frame costs.

    python scripts/recipes/compare_compact.py --flow experiments/release_flow/pyramid_flow.pth --minutes 4

Each candidate trains on generated clips (bicubic x4; in bfloat16 where the processor has it) for as many minutes of
processor time, on one thread, its rate going down to 0, and is measured on held-out generated clips. Prints a table,
and leaves its rows, with the machine, in results/compact/NAME.json; those that are there are kept.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import torch
import yaml
from basicsr.data import build_dataset
from basicsr.metrics import calculate_psnr
from basicsr.models import build_model
from basicsr.utils import tensor2img
from torch import nn
from torch.utils.data import default_collate
from training import fast_precision

from basicsr_plugins.benchmark.machine import describe_machine, describe_versions
from basicsr_plugins.data.synthetic_clips import validation_set
from basicsr_plugins.errors import run_script
from basicsr_plugins.files import write_atomically

CANDIDATES = {
    '32 channels, 4 blocks, upsampler 24': {'num_feat': 32, 'num_block': 4, 'upsample_feat': 24},
    '32 channels, 4 blocks, upsampler 32, 64': {'num_feat': 32, 'num_block': 4, 'upsample_feat': None},
    '32 channels, 10 blocks, upsampler 24': {'num_feat': 32, 'num_block': 10, 'upsample_feat': 24},
    '48 channels, 5 blocks, upsampler 32': {'num_feat': 48, 'num_block': 5, 'upsample_feat': 32},
    '48 channels, 10 blocks, upsampler 32': {'num_feat': 48, 'num_block': 10, 'upsample_feat': 32},
    '64 channels, 10 blocks, upsampler 32': {'num_feat': 64, 'num_block': 10, 'upsample_feat': 32},
}
OPTIONS = Path('options/train_EFAR-S_bicubic.yml')
RESULTS = Path('results/compact')
LR = 1e-3
FRAME = 180, 320


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--flow', type=Path, required=True, help='weights of PyramidFlow')
    parser.add_argument('--minutes', type=float, default=4)
    parser.add_argument('--only', nargs='+', choices=list(CANDIDATES), help='candidates')
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    validation_set('datasets/generated_val', number=4)
    for name in args.only or CANDIDATES:
        path = RESULTS / f'{name.replace(", ", "_").replace(" ", "_")}.json'
        if not path.is_file():
            row = compare(CANDIDATES[name], args.flow, args.minutes)
            record = {
                'name': name,
                **row,
                'amp': fast_precision(),
                'machine': describe_machine('cpu'),
                'versions': describe_versions(),
            }
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(record, indent=1) + '\n')
    rows = [json.loads(path.read_text(encoding='utf-8')) for path in sorted(RESULTS.glob('*.json'))]
    print(f'| {"EFAR":<42} | parameters | iterations | PSNR, dB | s/frame of 320x180 |')
    print(f'|{"-" * 44}|-----------:|-----------:|---------:|-------------------:|')
    for row in sorted(rows, key=lambda row: row['seconds']):
        cells = f'{row["parameters"]:>10} | {row["iterations"]:>10} | {row["psnr"]:>8.2f} | {row["seconds"]:>18.2f}'
        print(f'| {row["name"]:<42} | {cells} |')


def compare(arguments: dict, flow: Path, minutes: float) -> dict:
    """Train a candidate and measure it: PSNR (dB, RGB) on held-out clips, seconds a frame (one thread, float32)."""
    with tempfile.TemporaryDirectory() as folder:
        opt = options(arguments, flow, folder)
        model = build_model(opt)
        train = build_dataset({**opt['datasets']['train'], 'phase': 'train', 'scale': opt['scale']})
        start, i, done = time.process_time(), 0, 0.0
        while done < 1:
            rate = LR * min(1, (i + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * done))
            for group in model.optimizer_g.param_groups:
                group['lr'] = rate
            model.feed_data(default_collate([train[i]]))
            model.optimize_parameters(i + 1)
            i, done = i + 1, (time.process_time() - start) / (60 * minutes)
    net = model.get_bare_model(model.net_g).eval()
    val = {**opt['datasets']['val'], 'phase': 'val', 'scale': opt['scale']}
    return {
        'parameters': sum(parameter.numel() for parameter in net.parameters()),
        'iterations': i,
        'psnr': statistics.mean(psnr(net, clip) for clip in build_dataset(val)),
        'seconds': seconds_per_frame(net),
    }


def options(arguments: dict, flow: Path, folder: str) -> dict:
    """The option file of the compact EFAR with other arguments, for `build_model`; the rate is set from outside."""
    found = yaml.safe_load(OPTIONS.read_text(encoding='utf-8'))
    found.update(num_gpu=0, is_train=True, dist=False, rank=0, path={'models': folder, 'log': folder})
    found['datasets']['train'].update(num_frame=7, gt_size=192)  # small: there is time for some hundred iterations
    found['network_g'].update(arguments, spynet_path=str(flow))
    found['train'].update(amp=fast_precision(), fix_flow=found['train']['total_iter'])
    return found


@torch.no_grad()
def psnr(net: nn.Module, clip: dict) -> float:
    """Mean over the frames of a clip of `VSRTestDataset`."""
    frames = zip(net(clip['lq'][None])[0], clip['gt'])
    return statistics.mean(calculate_psnr(*(tensor2img(frame) for frame in pair), crop_border=0) for pair in frames)


@torch.no_grad()
def seconds_per_frame(net: nn.Module) -> float:
    """The least of three runs on three frames."""
    x = torch.rand(1, 3, 3, *FRAME)
    times = []
    for _ in range(3):
        start = time.process_time()
        net(x)
        times.append((time.process_time() - start) / 3)
    return min(times)


if __name__ == '__main__':
    run_script(main)
