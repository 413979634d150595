"""Demo clips, LMDBs, a small EFAR, how it compares with bicubic, and a film that it upscales.

Run it by `bash scripts/quickstart.sh`. What each step leaves behind is taken up by the next run: clips, LMDBs, training
states and the trained network.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import training
import yaml
from comparison import comparison_sheet, comparison_table, enlarge, read_metrics
from tqdm import tqdm

from basicsr_plugins.benchmark.evaluation import most_different
from basicsr_plugins.data.demo_data import HELD_OUT, SCALE, load_motion, make_demo_data
from basicsr_plugins.data.lmdb_store import pack_folder
from basicsr_plugins.errors import InputError, run_script
from basicsr_plugins.upscaling import choose_weights, load_network, upscale

DATA = Path('datasets/demo')
RESULTS = Path('results/quickstart')
TRAIN = Path('options/train_EFAR_demo.yml')
TESTS = {'bicubic': Path('options/test_Bicubic_demo.yml'), 'EFAR': Path('options/test_EFAR_demo.yml')}
ITERATION = re.compile(r'iter:\s*([\d,]*\d),.*l_pix: (\S+)')


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--fresh', action='store_true', help='train anew where a trained network is there already')
    return quickstart(parser.parse_args().fresh)


def quickstart(fresh: bool = False) -> int:
    """Run every step, from the project folder.

    Args:
        fresh: Train anew where a trained network is there already.

    Returns:
        The exit code: 0, or 1 where EFAR does not end above bicubic on the held-out clips.

    Raises:
        InputError: A step failed.
    """
    RESULTS.mkdir(parents=True, exist_ok=True)
    say(1, f'demo clips in {DATA}')
    make_demo_data(DATA)
    say(2, 'their LMDBs')
    for kind in ('GT', f'BIx{SCALE}'):
        pack_folder(DATA / kind, DATA / f'{kind}.lmdb')
    say(3, 'training a small EFAR')
    train(fresh)
    say(4, 'bicubic and EFAR on the held-out clips')
    metrics = {name: test(name) for name in TESTS}
    say(5, 'table and pictures')
    table = comparison_table(*metrics.items())
    table_path = RESULTS / 'table.txt'
    table_path.write_text(table + '\n')
    sheets = [write_sheet(clip, metrics) for clip in HELD_OUT]
    say(6, 'a film, upscaled by EFAR, the same beside bicubic, and upscaled by the shipped weights')
    films = write_films(HELD_OUT[0])

    print(f'\n{table}\n')
    for path in (table_path, *sheets, *films):
        print(path)
    gain = metrics['EFAR']['average']['psnr'] - metrics['bicubic']['average']['psnr']
    if not gain > 0:
        print(f'error: EFAR ends {-gain:.2f} dB below bicubic; train it anew with --fresh', file=sys.stderr)
        return 1
    return 0


def say(step: int, text: str) -> None:
    print(f'[{step}/6] {text}', flush=True)


def train(fresh: bool) -> None:
    """Train, with a bar of progress; keep a finished training."""
    total_iter = yaml.safe_load(TRAIN.read_text())['train']['total_iter']
    with tqdm(total=total_iter, unit='iter', desc='training', delay=1) as progress:

        def show(line):
            match = ITERATION.search(line)
            if match:
                progress.set_postfix_str(f'loss {float(match[2]):.4f}')
                progress.update(int(match[1].replace(',', '')) - progress.n)

        training.train(TRAIN, RESULTS, fresh, show)


def test(name: str) -> dict[str, dict[str, float]]:
    """Run BasicSR's own test of one method; returns its metrics, as `read_metrics`."""
    path = TESTS[name]
    folder = Path('results') / yaml.safe_load(path.read_text())['name']
    shutil.rmtree(folder, ignore_errors=True)  # the toolbox would keep every earlier result under another name
    training.run_toolbox('basicsr.test', path, RESULTS)
    return read_metrics(folder / 'metrics.csv')


def write_sheet(clip: str, metrics: dict) -> Path:
    """Lay the middle frame of a clip side by side: LQ, bicubic, EFAR, GT; returns the path of the sheet."""
    frame = load_motion(DATA, clip)['num_frame'] // 2
    lq = enlarge(read_picture(DATA / f'BIx{SCALE}' / clip / f'{frame:08d}.png'), SCALE)
    pictures = {'LQ': lq}
    for name, path in TESTS.items():
        options = yaml.safe_load(path.read_text())
        folder = Path('results') / options['name'] / 'visualization' / options['datasets']['test']['name'] / clip
        label = f'{name}: clip {metrics[name][clip]["psnr"]:.2f} dB'
        pictures[label] = read_picture(folder / f'{frame:08d}_{options["name"]}.png')
    restored = list(pictures.values())[1:]
    pictures['GT'] = read_picture(DATA / 'GT' / clip / f'{frame:08d}.png')

    size = tuple(side // 4 for side in lq.shape[:2])
    sheet_path = RESULTS / f'{clip}.png'
    cv2.imwrite(str(sheet_path), comparison_sheet(pictures, (*most_different(*restored, size), *size)))
    return sheet_path


def write_films(clip: str) -> tuple[Path, ...]:
    """Upscale the LQ frames of a clip into a video, and one with bicubic at the left; and by the shipped weights.

    Returns:
        The paths of the three.
    """
    film, beside_bicubic = RESULTS / f'{clip}.mp4', RESULTS / f'{clip}_bicubic_and_EFAR.mp4'
    frames = DATA / f'BIx{SCALE}' / clip
    experiment = yaml.safe_load(TRAIN.read_text())['name']
    net = load_network(Path('experiments') / experiment / 'models' / 'net_g_latest.pth', str(TRAIN))
    upscale(net, frames, film, force=True, compare=beside_bicubic)
    weights, _ = choose_weights(frames)
    by_shipped = RESULTS / f'{clip}_{weights}.mp4'
    upscale(load_network(weights), frames, by_shipped, force=True)
    return film, beside_bicubic, by_shipped


def read_picture(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise InputError(f'{path} is missing or damaged; run the quickstart again.')
    return picture


if __name__ == '__main__':
    run_script(main)
