"""Measure the weights that come with the package, on clean clips and on the same clips compressed.

    python scripts/recipes/evaluate_weights.py --data datasets/Vid4 datasets/CDVL --clips calendar city ntia_Aspen

LR frames as they are, and after H.264 of CRF 23, 28 and 32, against GT, on the Y channel, all frames. The benchmark's
report is results/weights/report.html; a table of averages goes to the terminal, the numbers of each weights file to
basicsr_plugins/weights/index.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from pathlib import Path

import numpy as np

from basicsr_plugins.benchmark.clips import find_roots
from basicsr_plugins.commands.benchmark import main as benchmark
from basicsr_plugins.data.degradation_video import Encoding, compress_clip
from basicsr_plugins.data.demo_data import write_png
from basicsr_plugins.data.preparation import read_image
from basicsr_plugins.errors import run_script
from basicsr_plugins.files import write_atomically
from basicsr_plugins.models.shipped_weights import FOLDER, list_shipped

CRFS = (None, 23, 28, 32)
CLIPS, RESULTS = Path('datasets/weights_test'), Path('results/weights')
METRICS = {'psnr': 2, 'ssim': 4, 'tof': 3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, nargs='+', required=True, help='test sets of x4')
    parser.add_argument('--clips', nargs='+', required=True)
    parser.add_argument('--more', nargs='*', default=[], help='further networks, as --network of the benchmark')
    args = parser.parse_args()
    for data in args.data:
        lq, gt = find_roots(data, 4)
        for clip in args.clips:
            if (gt / clip).is_dir():
                prepare(clip, lq / clip, gt / clip)
    arguments = ['--lq', str(CLIPS / 'LQ'), '--gt', str(CLIPS / 'GT'), '-o', str(RESULTS), '--title', 'Shipped weights']
    for name in [*list_shipped(), *args.more]:
        arguments += ['--network', name]
    benchmark(arguments)

    rows = json.loads((RESULTS / 'results.json').read_text(encoding='utf-8'))['rows']
    index = json.loads((FOLDER / 'index.json').read_text(encoding='utf-8'))
    print('\nPSNR (dB) / SSIM / tOF (pixels), mean of ' + ', '.join(args.clips))
    for row in rows:
        means = {label(crf): mean(row['clips'], args.clips, crf) for crf in CRFS}
        print(f'| {row["name"]} | ' + ' | '.join(means.values()) + ' |')
        if row['name'] in index:
            index[row['name']]['numbers'] = means
    write_atomically(FOLDER / 'index.json', json.dumps(index, indent=2) + '\n')


def label(crf: int | None) -> str:
    return 'PSNR, SSIM, tOF on clean clips' if crf is None else f'on the same, x264 of CRF {crf}'


def folder_name(clip: str, crf: int | None) -> str:
    return clip if crf is None else f'{clip}_crf{crf}'


def prepare(clip: str, lq: Path, gt: Path) -> None:
    """A folder of LR and one of GT for each compression; those that are there are kept."""
    paths = sorted(lq.glob('*.png'))
    frames = [read_image(path) for path in paths]  # BGR uint8
    for crf in CRFS:
        name = folder_name(clip, crf)
        if (CLIPS / 'LQ' / name).is_dir():
            continue
        shutil.copytree(gt, CLIPS / 'GT' / name, dirs_exist_ok=True)
        made = frames
        if crf is not None:
            clean = [np.ascontiguousarray(frame[..., ::-1], np.float32) / 255 for frame in frames]
            made = [compressed[..., ::-1] * 255 for compressed in compress_clip(clean, Encoding('libx264', crf))]
        temporary = CLIPS / f'{name}.partial'
        temporary.mkdir(parents=True, exist_ok=True)
        for path, frame in zip(paths, made):
            write_png(temporary / path.name, np.rint(frame).astype(np.uint8))
        (CLIPS / 'LQ').mkdir(exist_ok=True)
        temporary.rename(CLIPS / 'LQ' / name)


def mean(values: dict, clips: list[str], crf: int | None) -> str:
    """PSNR / SSIM / tOF over clips."""
    found = [values[folder_name(clip, crf)] for clip in clips]
    return ' / '.join(f'{statistics.mean(one[name] for one in found):.{digits}f}' for name, digits in METRICS.items())


if __name__ == '__main__':
    run_script(main)
