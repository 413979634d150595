"""Train a small BasicAVSR for scales from 2 to 4 and a small EFAR for x4 alike, and compare them at several scales.

    python scripts/recipes/compare_scales.py --vid4 datasets/Vid4 \\
        --spynet experiments/pretrained_models/flownet/spynet_sintel_final-3d2a1287.pth

Both see the same clips, MATLAB-bicubic LR, patches of 32 LR pixels, iterations and seeds; the flow network is trained
beforehand and stays as it is. One report for each test set: a table per scale, PSNR against scale. Runs in the project
folder. Interrupted, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from compare_networks import DEMO, OPTIONS, own_flow
from training import train_with

from basicsr_plugins.benchmark.clips import find_roots
from basicsr_plugins.benchmark.evaluation import Protocol
from basicsr_plugins.benchmark.methods import NetworkMethod
from basicsr_plugins.benchmark.scales import run_scales, scales_table
from basicsr_plugins.benchmark.settings import Benchmark
from basicsr_plugins.data.demo_data import HELD_OUT, make_demo_data
from basicsr_plugins.data.lmdb_store import pack_folder
from basicsr_plugins.errors import run_script
from basicsr_plugins.models.entries import NetworkEntry

RESULTS = Path('results/scales')
SCALES = (2, 2.5, 3, 4, (2, 3.5))
LQ_SIZE, SCALE_RANGE = 32, [2, 4]
NETWORKS = {
    'BasicAVSR': {
        'type': 'BasicAVSR',
        'num_feat': 32,
        'num_block': 3,
        'num_extract_block': 1,
        'num_upsample_block': 3,
        'deform_groups': 8,
        'trained_scales': SCALE_RANGE,
    },
    'EFAR': {'type': 'EFAR', 'num_feat': 32, 'num_block': 4},  # x4 alone
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--spynet', type=Path, help='SpyNet weights; without, one is trained on the demo clips')
    parser.add_argument('--vid4', type=Path, help='compare on these clips too: a folder with GT')
    parser.add_argument('--iterations', type=int, default=5000)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1])
    parser.add_argument('--max-frames', type=int, help='compare on the first frames of each clip only')
    args = parser.parse_args()
    make_demo_data(DEMO)
    for kind in ('GT', 'BIx4'):
        pack_folder(DEMO / kind, DEMO / f'{kind}.lmdb')
    spynet_path = args.spynet or own_flow()
    folders = {
        (name, seed): train_with(training_options(name, seed, spynet_path, args.iterations), RESULTS)
        for seed in args.seeds
        for name in NETWORKS
    }
    compare(folders, args.iterations, args.vid4, args.max_frames, shlex.join(['python', *sys.argv]))


def training_options(name: str, seed: int, spynet_path: Path, iterations: int) -> dict:
    """The demo training's options with another network, and LR of all scales for BasicAVSR."""
    opt = yaml.safe_load(OPTIONS.read_text(encoding='utf-8'))
    opt.update(name=f'scales_{name}_{iterations}_seed{seed}', manual_seed=seed)
    opt['network_g'] = {**NETWORKS[name], 'spynet_path': str(spynet_path)}
    train = opt['datasets']['train']
    if name == 'BasicAVSR':
        del train['dataroot_lq']
        train.update(scale_range=SCALE_RANGE, lq_size=LQ_SIZE, gt_size=2 * LQ_SIZE, degradation='bicubic')
    # the first steps of Adam at this rate are large beside the small weights that the residual blocks start with
    opt['train'].update(total_iter=iterations, fix_flow=iterations + 1, warmup_iter=min(100, iterations // 2))
    opt['train']['optim_g']['lr'] = 1e-3
    opt['train']['scheduler']['periods'] = [iterations]
    opt['val'] = None  # the benchmark measures
    del opt['datasets']['val']
    opt['logger']['save_checkpoint_freq'] = max(iterations // 10, 1)
    return opt


def compare(
    folders: Mapping[tuple[str, int], Path],
    iterations: int,
    vid4: Path | None,
    max_frames: int | None,
    command: str,
    scales: Sequence = SCALES,
) -> None:
    """Benchmark the trained networks at all scales, on the held-out demo clips (RGB) and on Vid4 (Y).

    Args:
        folders: The experiment's folder of each (network, seed).
        iterations: Of each training.
        vid4: A folder with GT of Vid4's clips; None to leave it out.
        max_frames: Of each clip; None for all.
        command: For the reports.
        scales: At which.
    """
    methods = [
        NetworkMethod(
            NetworkEntry(
                f'{name}, seed {seed}', dict(NETWORKS[name]), str(folder / 'models' / f'net_g_{iterations}.pth')
            )
        )
        for (name, seed), folder in sorted(folders.items())
    ]
    sets = {'demo': (DEMO, HELD_OUT, False)}
    if vid4 is not None:
        sets['Vid4'] = (vid4, (), True)
    for name, (data, clip_names, y_channel) in sets.items():
        benchmarks = []
        for scale in scales:
            protocol = Protocol(y_channel=y_channel, max_frames=max_frames, scale=scale, degradation='bicubic')
            lq_root, gt_root = find_roots(data, scale, protocol.degradation)
            title = f'One network for all scales: {name}, {iterations} iterations'
            common = {'protocol': protocol, 'profile': None, 'title': title, 'command': command}
            benchmarks.append(Benchmark(RESULTS / name, methods, lq_root, gt_root, clip_names, **common))
        found = run_scales(benchmarks, RESULTS / name)
        print(f'\n{name}\n{scales_table(found)}\n{RESULTS / name / "report.html"}', flush=True)


if __name__ == '__main__':
    run_script(main)
