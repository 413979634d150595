"""The main job of `scripts/quickstart.sh`: demo clips, LMDBs, a small EFAR, how it compares with bicubic, and
a film that it upscales.

What each step leaves behind is taken up by the next run: clips, LMDBs, training states and the trained network.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import yaml
from tqdm import tqdm

from basicsr_plugins.benchmark.comparison import (
    comparison_sheet,
    comparison_table,
    enlarge,
    most_different,
    read_metrics,
)
from basicsr_plugins.data.demo_data import HELD_OUT, SCALE, load_motion, make_demo_data
from basicsr_plugins.data.lmdb_store import pack_folder
from basicsr_plugins.errors import InputError
from basicsr_plugins.upscaling import load_network, upscale

DATA = Path('datasets/demo')
RESULTS = Path('results/quickstart')
TRAIN = Path('options/train_EFAR_demo.yml')
TESTS = {'bicubic': Path('options/test_Bicubic_demo.yml'), 'EFAR': Path('options/test_EFAR_demo.yml')}
ITERATION = re.compile(r'iter:\s*([\d,]*\d),.*l_pix: (\S+)')


def quickstart(fresh=False):
    """Run every step, from the project folder.

    Args:
        fresh (bool): Train anew where a trained network is there already.

    Returns:
        int: Exit code: 0, or 1 where EFAR does not end above bicubic on the held-out clips.

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
    say(6, 'a film, upscaled by EFAR, and the same beside bicubic')
    films = write_films(HELD_OUT[0])

    print(f'\n{table}\n')
    for path in (table_path, *sheets, *films):
        print(path)
    gain = metrics['EFAR']['average']['psnr'] - metrics['bicubic']['average']['psnr']
    if not gain > 0:
        print(f'error: EFAR ends {-gain:.2f} dB below bicubic; train it anew with --fresh', file=sys.stderr)
        return 1
    return 0


def say(step, text):
    print(f'[{step}/6] {text}', flush=True)


def train(fresh):
    """Train with BasicSR's own trainer; go on with an interrupted training; keep a finished one."""
    options = yaml.safe_load(TRAIN.read_text())
    total_iter = options['train']['total_iter']
    models = Path('experiments') / options['name'] / 'models'
    names = ('latest', total_iter)  # latest is written last; of an earlier, shorter training there would be only that
    if all((models / f'net_g_{name}.pth').is_file() for name in names) and not fresh:
        print(f'{models} holds the trained network; --fresh trains it anew')
        return
    # without --auto_resume the toolbox moves an earlier experiment aside and begins anew
    arguments = ['-opt', str(TRAIN), *([] if fresh else ['--auto_resume'])]
    with tqdm(total=total_iter, unit='iter', desc='training') as progress:

        def show(line):
            match = ITERATION.search(line)
            if match:
                progress.set_postfix_str(f'loss {float(match[2]):.4f}')
                progress.update(int(match[1].replace(',', '')) - progress.n)

        run_toolbox('basicsr.train', arguments, show)


def test(name):
    """Run BasicSR's own test of one method; returns its metrics, as `read_metrics`."""
    path = TESTS[name]
    folder = Path('results') / yaml.safe_load(path.read_text())['name']
    shutil.rmtree(folder, ignore_errors=True)  # the toolbox would keep every earlier result under another name
    run_toolbox('basicsr.test', ['-opt', str(path)])
    return read_metrics(folder / 'metrics.csv')


def run_toolbox(module, arguments, show=lambda line: None):
    """Run `python -m module arguments`; what it says goes to a log and, line by line, to `show`."""
    log_path = RESULTS / f'{module}_{Path(arguments[1]).stem}.log'
    command = [sys.executable, '-m', module, *arguments]
    tqdm.write(f'python {" ".join(command[1:])}   (log: {log_path})')
    # The patches are so small that a second thread only waits for the first; the data has a process of its own.
    environment = {'OMP_NUM_THREADS': '1', **os.environ} if module == 'basicsr.train' else None
    with open(log_path, 'w', encoding='utf-8') as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        with process:
            for line in process.stdout:
                log.write(line)
                log.flush()
                show(line)
    if process.returncode:
        last_lines = ''.join(log_path.read_text(encoding='utf-8').splitlines(keepends=True)[-5:])
        print(last_lines, end='', file=sys.stderr)
        raise InputError(f'python -m {module} stopped with exit code {process.returncode}; {log_path} says why')


def write_sheet(clip, metrics):
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


def write_films(clip):
    """Upscale the LQ frames of a clip into a video, and one with bicubic at the left; returns their paths."""
    film, beside_bicubic = RESULTS / f'{clip}.mp4', RESULTS / f'{clip}_bicubic_and_EFAR.mp4'
    experiment = yaml.safe_load(TRAIN.read_text())['name']
    net = load_network(Path('experiments') / experiment / 'models' / 'net_g_latest.pth', str(TRAIN))
    upscale(net, DATA / f'BIx{SCALE}' / clip, film, force=True, compare=beside_bicubic)
    return film, beside_bicubic


def read_picture(path):
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise InputError(f'{path} is missing or damaged; run the quickstart again')
    return picture
