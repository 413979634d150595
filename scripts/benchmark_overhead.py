#!/usr/bin/env python3
"""Compare the cost of everyday commands with that of another checkout, in one run.

    git worktree add --detach ../before COMMIT
    python scripts/benchmark_overhead.py ../before
    python scripts/benchmark_overhead.py ../before --only film rgba --pairs 30

Each checkout is served by a process of its own that has imported it; for each command it forks one that runs it on
small demo clips, by turns with the other checkout's. What counts is CPU time, user and system, which other work on the
machine changes less than wall-clock time. The table shows medians, and the median of the ratios of each pair with
its quartiles.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

FRAMES = 3  # of a clip that is trained on and measured
NETWORK = 'BasicVSR:num_feat=8,num_block=1'  # of the toolbox: the same in every checkout
UPSCALE = ['scripts/upscale.py', '--network', NETWORK, '--checkpoint', '../net.pth', '--preset', 'ultrafast', '-o']
COMMANDS = {  # name -> script or module, and its arguments
    'training': ['basicsr.train', '-opt', '../train.yml'],
    'film': [*UPSCALE, 'out.mp4', '../film.mp4'],
    'png': [*UPSCALE, 'out', '../rgb'],
    'rgba': [*UPSCALE, 'out', '../rgba'],
    'packing': ['scripts/data_preparation/create_lmdb.py', 'folder', '../demo/GT', 'GT.lmdb', '--num-worker', '0'],
    'benchmark': [
        *('scripts/benchmark.py', '--lq', '../LQ', '--gt', '../GT', '--no-profile', '-o', 'out'),
        *('--network', f'{NETWORK}@../net.pth'),
    ],
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('other', type=Path, help='folder of the other checkout')
    parser.add_argument('--pairs', type=int, default=15, help='runs of each command in each checkout')
    parser.add_argument('--only', nargs='+', choices=COMMANDS, default=list(COMMANDS), help='commands; default: all')
    return parser.parse_args()


def main() -> None:
    """Make the inputs, measure, and print the table."""
    from basicsr_plugins.benchmark.machine import describe_machine
    from basicsr_plugins.errors import InputError

    args = parse_args()
    if not (args.other / 'basicsr_plugins').is_dir():
        raise InputError(f'{args.other} is no checkout of this project.')
    checkouts = [Path(__file__).resolve().parents[1], args.other.resolve()]
    with tempfile.TemporaryDirectory(prefix='benchmark_overhead_') as root:
        make_inputs(Path(root))
        servers = [start_server(checkout) for checkout in checkouts]
        print(f'{describe_machine("cpu")["processor"]}; medians of {args.pairs} runs by turns, one thread\n')
        print('| command | CPU seconds | other checkout | ratio | its quartiles |\n|---|---|---|---|---|')
        for name in args.only:
            print(describe(name, measure(servers, Path(root), COMMANDS[name], args.pairs)), flush=True)
        for server in servers:
            server.stdin.close()
            server.wait()


def make_inputs(root: Path) -> None:
    """Clips `GT` and `LQ`, the LQ frames of one as `rgb`, as opaque `rgba` and as `film.mp4`, weights and options."""
    import av
    import cv2
    import numpy as np
    import torch
    import yaml
    from basicsr.archs import build_network

    from basicsr_plugins.data.demo_data import CLIPS, make_demo_data
    from basicsr_plugins.models.entries import parse_network

    make_demo_data(root / 'demo', clips=CLIPS[:2])
    for ours, theirs in (('GT', 'GT'), ('LQ', 'BIx4')):
        for clip in sorted((root / 'demo' / theirs).iterdir()):
            (root / ours / clip.name).mkdir(parents=True)
            for file in sorted(clip.iterdir())[:FRAMES]:
                shutil.copy(file, root / ours / clip.name)
    images = [cv2.imread(str(file)) for file in sorted(clip.iterdir())[: 2 * FRAMES]]
    h, w = images[0].shape[:2]
    for name, opaque in (('rgb', ()), ('rgba', (np.full((h, w), 255, np.uint8),))):
        (root / name).mkdir()
        for i, image in enumerate(images):
            cv2.imwrite(str(root / name / f'{i:03d}.png'), np.dstack([image, *opaque]))
    with av.open(str(root / 'film.mp4'), 'w') as output:
        stream = output.add_stream('libx264', rate=25)
        stream.width, stream.height, stream.pix_fmt = w, h, 'yuv420p'
        for image in images:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format='bgr24')))
        output.mux(stream.encode(None))
    torch.manual_seed(0)
    network = parse_network(NETWORK).options
    torch.save({'params': build_network(dict(network)).state_dict()}, root / 'net.pth')
    (root / 'train.yml').write_text(yaml.safe_dump(training_options(root, network)), encoding='utf-8')


def training_options(root: Path, network: dict) -> dict:
    """Six iterations, two checkpoints and a validation."""
    data = {'dataroot_gt': str(root / 'GT'), 'dataroot_lq': str(root / 'LQ'), 'io_backend': {'type': 'disk'}}
    sample = {'num_frame': 3, 'gt_size': 64, 'interval_list': [1], 'use_hflip': True, 'use_rot': True}
    loader = {'num_worker_per_gpu': 0, 'batch_size_per_gpu': 1, 'dataset_enlarge_ratio': 10, 'prefetch_mode': None}
    metrics = {'psnr': {'type': 'calculate_psnr', 'crop_border': 0, 'test_y_channel': False}}
    return {
        'name': 'overhead',
        'model_type': 'VSRModel',
        'scale': 4,
        'num_gpu': 0,
        'manual_seed': 0,
        'datasets': {
            'train': {'name': 'clips', 'type': 'VSRTrainDataset', **data, **sample, **loader},
            'val': {'name': 'val', 'type': 'VSRTestDataset', 'cache_data': False, **data},
        },
        'network_g': network,
        'path': {'pretrain_network_g': None, 'strict_load_g': True, 'resume_state': None},
        'train': {
            'ema_decay': 0.9,
            'optim_g': {'type': 'Adam', 'lr': 1e-4, 'betas': [0.9, 0.99]},
            'scheduler': {'type': 'CosineAnnealingRestartLR', 'periods': [6], 'restart_weights': [1]},
            'total_iter': 6,
            'fix_flow': 1000,
            'flow_lr_mul': 1,
            'warmup_iter': -1,
            'pixel_opt': {'type': 'CharbonnierLoss', 'loss_weight': 1.0, 'reduction': 'mean'},
        },
        'val': {'val_freq': 6, 'save_img': False, 'metrics': metrics},
        'logger': {'print_freq': 3, 'save_checkpoint_freq': 3, 'use_tb_logger': False},
        'dist_params': {'backend': 'gloo', 'port': 29500},
    }


# ---------------------------------------------------------------------------- measuring


def start_server(checkout: Path) -> subprocess.Popen:
    """A process that imports a checkout and runs commands of it on demand: `serve`."""
    environment = {**os.environ, 'PYTHONPATH': str(checkout), 'OMP_NUM_THREADS': '1', 'OMP_WAIT_POLICY': 'passive'}
    command = [sys.executable, os.path.abspath(__file__), '--serve', str(checkout)]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def serve(checkout: Path) -> None:
    """Answer a command and its folder, a line of JSON, by the CPU seconds and the status of a process that ran it."""
    sys.modules.update(openvino=None, onnxruntime=None)  # PyTorch runs the network, as it always could
    import basicsr.train  # noqa: F401  # imported once, before the processes fork

    import basicsr_plugins

    assert Path(basicsr_plugins.__file__).is_relative_to(checkout), basicsr_plugins.__file__
    for script in ('upscale', 'benchmark', 'data_preparation/create_lmdb'):
        runpy.run_path(str(checkout / 'scripts' / f'{script}.py'))  # imports all that it needs
    answers = os.fdopen(os.dup(1), 'w')
    for line in sys.stdin:
        command, folder = json.loads(line)
        child = os.fork()
        if child == 0:
            run(checkout, command, Path(folder))
        _, status, usage = os.wait4(child, 0)
        print(json.dumps((usage.ru_utime + usage.ru_stime, status)), file=answers, flush=True)


def run(checkout: Path, command: list[str], folder: Path) -> None:
    """Run a script of the checkout, or a module, in a folder, with what it prints in `log` there; never returns."""
    code = 1
    try:
        os.chdir(folder)
        log = os.open('log', os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = command
        if command[0].endswith('.py'):
            runpy.run_path(str(checkout / command[0]), run_name='__main__')
        else:
            runpy.run_module(command[0], run_name='__main__', alter_sys=True)
        code = 0
    except SystemExit as error:
        code = int(bool(error.code))
    finally:
        sys.stdout.flush()
        os._exit(code)


def measure(servers: list[subprocess.Popen], root: Path, command: list[str], pairs: int) -> list[tuple[float, ...]]:
    """CPU seconds of a command in each checkout, pair by pair, after one that does not count."""
    times = []
    for number in range(pairs + 1):
        pair = {}
        for index in (0, 1) if number % 2 else (1, 0):
            folder = Path(tempfile.mkdtemp(dir=root))
            print(json.dumps((command, str(folder))), file=servers[index].stdin, flush=True)
            seconds, status = json.loads(servers[index].stdout.readline())
            assert status == 0, (folder / 'log').read_text(errors='replace')
            pair[index] = seconds
            shutil.rmtree(folder)
        if number:
            times.append((pair[0], pair[1]))
    return times


def describe(name: str, times: list[tuple[float, ...]]) -> str:
    """A row of the table."""
    ours, others = (statistics.median(column) for column in zip(*times))
    ratios = [our / other for our, other in times]
    low, middle, high = statistics.quantiles(ratios, n=4, method='inclusive') if len(ratios) > 1 else ratios * 3
    return f'| {name} | {ours:.3f} | {others:.3f} | {middle:.3f} | {low:.3f} to {high:.3f} |'


if __name__ == '__main__':
    if sys.argv[1:2] == ['--serve']:
        serve(Path(sys.argv[2]))
    else:
        from basicsr_plugins.errors import run_script

        run_script(main)
