"""Train EFAR, BasicVSR, MSFFN and EDVR alike on the demo clips and benchmark them on clips that none has seen.

    python scripts/recipes/compare_networks.py --vid4 datasets/Vid4 \\
        --spynet experiments/pretrained_models/flownet/spynet_sintel_final-3d2a1287.pth

The networks are small, have about the same number of parameters beside the flow network, and see the same clips,
patches, window length, iterations and seeds; the flow network of those that have one is trained beforehand and stays as
it is. Runs in the project folder. Interrupted, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from flow_training import train_spynet
from training import train_with

from basicsr_plugins.benchmark.clips import find_roots
from basicsr_plugins.benchmark.evaluation import Protocol
from basicsr_plugins.benchmark.methods import NetworkMethod
from basicsr_plugins.benchmark.runner import run_benchmark
from basicsr_plugins.benchmark.settings import Benchmark, ProfileSettings
from basicsr_plugins.benchmark.tables import terminal_table
from basicsr_plugins.data.demo_data import HELD_OUT, make_demo_data
from basicsr_plugins.data.lmdb_store import pack_folder
from basicsr_plugins.errors import InputError, run_script
from basicsr_plugins.models.entries import NetworkEntry

OPTIONS = Path('options/train_EFAR_demo.yml')
DEMO = Path('datasets/demo')
RESULTS = Path('results/comparison')
OWN_FLOW = RESULTS / 'spynet_demo.pth'
NUM_FRAME = 5
NETWORKS = {  # 0.43 to 0.45 M parameters beside the flow network
    'EFAR': {'type': 'EFAR', 'num_feat': 32, 'num_block': 4},
    'BasicVSR': {'type': 'BasicVSR', 'num_feat': 32, 'num_block': 7},
    'MSFFN': {
        'type': 'MSFFN',
        'num_feat': 32,
        'num_frame': NUM_FRAME,
        'num_extract_block': 3,
        'num_mdrb': 1,
        'num_block': 3,
        'deform_groups': 4,
    },
    'EDVR': {
        'type': 'EDVR',
        'num_feat': 24,
        'num_frame': NUM_FRAME,
        'deformable_groups': 4,
        'num_extract_block': 2,
        'num_reconstruct_block': 2,
    },
}
WITH_FLOW = ('EFAR', 'BasicVSR')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--spynet',
        type=Path,
        help="SpyNet weights in the format of BasicSR's SpyNet(load_path); without, one is trained on the demo clips",
    )
    parser.add_argument('--vid4', type=Path, help='benchmark on these clips too: a folder with GT and BIx4')
    parser.add_argument('--iterations', type=int, default=1000)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1])
    parser.add_argument('--jobs', type=int, default=os.cpu_count(), help='trainings at a time, of one thread each')
    args = parser.parse_args()
    make_demo_data(DEMO)
    for kind in ('GT', 'BIx4'):
        pack_folder(DEMO / kind, DEMO / f'{kind}.lmdb')
    folders = train_all(args.spynet or own_flow(), args.iterations, args.seeds, args.jobs)
    benchmark_all(folders, args.iterations, args.vid4, shlex.join(['python', *sys.argv]))


def own_flow() -> Path:
    """The weights of a SpyNet trained on the demo clips' known motion, some minutes on a CPU."""
    error = train_spynet(DEMO, OWN_FLOW)
    print(f'{OWN_FLOW}: end-point error {error:.3f} LR pixels on the held-out clips', flush=True)
    return OWN_FLOW


def train_all(spynet_path: Path, iterations: int, seeds: Sequence[int], jobs: int) -> dict[tuple[str, int], Path]:
    """Train every network with every seed; what is trained already is kept.

    Args:
        spynet_path: The flow network's weights.
        iterations: Of each training.
        seeds: Of the trainings.
        jobs: Trainings at a time, of one thread each.

    Returns:
        The experiment's folder of each (network, seed).

    Raises:
        InputError: If a training fails, naming its log.
    """
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        folders = {
            (name, seed): pool.submit(train_with, training_options(name, seed, spynet_path, iterations), RESULTS)
            for seed in seeds
            for name in NETWORKS
        }
        try:
            return {run: folder.result() for run, folder in folders.items()}
        except InputError:
            for folder in folders.values():
                folder.cancel()
            raise


def training_options(name: str, seed: int, spynet_path: Path, iterations: int) -> dict:
    """The demo training's options with another network."""
    experiment = f'compare_{name}_{iterations}_seed{seed}'
    if name in WITH_FLOW and spynet_path == OWN_FLOW:
        experiment += '_own_flow'
    opt = yaml.safe_load(OPTIONS.read_text(encoding='utf-8'))
    opt.update(name=experiment, manual_seed=seed)
    opt['network_g'] = dict(NETWORKS[name])
    if name in WITH_FLOW:
        opt['network_g']['spynet_path'] = str(spynet_path)
    opt['datasets']['train']['num_frame'] = NUM_FRAME
    opt['train'].update(total_iter=iterations, fix_flow=iterations + 1)
    opt['train']['optim_g']['lr'] = 1e-3
    opt['train']['scheduler']['periods'] = [iterations]
    opt['val']['val_freq'] = iterations
    opt['logger']['save_checkpoint_freq'] = max(iterations // 5, 1)
    return opt


def benchmark_all(folders: Mapping[tuple[str, int], Path], iterations: int, vid4: Path | None, command: str) -> None:
    """Benchmark the trained networks on the held-out demo clips (RGB) and on Vid4 (Y); print both tables.

    Args:
        folders: The experiment's folder of each (network, seed).
        iterations: Of each training.
        vid4: A folder with GT and BIx4 of Vid4's clips; None to leave it out.
        command: For the reports.
    """
    methods = [
        NetworkMethod(
            NetworkEntry(
                f'{name}, seed {seed}',
                dict(NETWORKS[name]),
                str(folders[name, seed] / 'models' / f'net_g_{iterations}.pth'),
            )
        )
        for name, seed in sorted(folders, key=lambda run: (list(NETWORKS).index(run[0]), run[1]))
    ]
    sets = {'demo': (DEMO, HELD_OUT, Protocol(y_channel=False))}
    if vid4 is not None:
        sets['Vid4'] = (vid4, (), Protocol(y_channel=True))
    for name, (data, clip_names, protocol) in sets.items():
        lq_root, gt_root = find_roots(data, protocol.scale)
        benchmark = Benchmark(
            out=RESULTS / name,
            others=methods,
            lq_root=lq_root,
            gt_root=gt_root,
            clip_names=clip_names,
            protocol=protocol,
            profile=ProfileSettings(repeat=1) if name == 'demo' else None,  # the cost is the same
            title=f'Trained alike for {iterations} iterations: {name}',
            command=command,
        )
        results = run_benchmark(benchmark)
        print(f'\n{benchmark.title}\n{terminal_table(results)}\n{benchmark.out / "report.html"}', flush=True)


if __name__ == '__main__':
    run_script(main)
