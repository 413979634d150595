"""Train networks alike on the demo clips and benchmark them on clips that none has seen.

    python scripts/recipes/compare_networks.py --vid4 datasets/Vid4 \\
        --spynet experiments/pretrained_models/flownet/spynet_sintel_final-3d2a1287.pth
    python scripts/recipes/compare_networks.py --networks ESPCN RRN small=RSDN:num_feat=32,num_block=6 --seeds 0

The networks of the table below are small, have about the same number of parameters beside the flow network, and see the
same clips, patches, window length, iterations and seeds; others are named with their arguments, as in the benchmark. A
SpyNet is trained beforehand and stays as it is; FRVSR, whose own flow network learns with the rest, adds to the
enlarged frame, as TecoGAN's does: else its flow is at its bound before its frames mean anything. Runs in the project
folder. Interrupted, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import inspect
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from basicsr.utils.registry import ARCH_REGISTRY
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
from basicsr_plugins.models.entries import NetworkEntry, parse_network

OPTIONS = Path('options/train_EFAR_demo.yml')
DEMO = Path('datasets/demo')
RESULTS = Path('results/comparison')
OWN_FLOW = RESULTS / 'spynet_demo.pth'
NUM_FRAME = 5
NETWORKS = {  # 0.42 to 0.45 M parameters beside the flow network
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
    'RRN': {'type': 'RRN', 'num_feat': 40, 'num_block': 13},
    'FRVSR': {'type': 'FRVSR', 'num_feat': 32, 'num_block': 21, 'lr_at_corner': False, 'residual': True},
    'TDAN': {
        'type': 'TDAN',
        'num_feat': 32,
        'num_frame': NUM_FRAME,
        'num_extract_block': 3,
        'num_block': 9,
        'deform_groups': 4,
    },
    'ESPCN': {'type': 'ESPCN', 'num_feat': 300},
    'FSRCNN': {'type': 'FSRCNN', 'num_feat': 192, 'num_shrunk': 102},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--networks',
        nargs='+',
        default=list(NETWORKS),
        metavar='NETWORK',
        help=f'{", ".join(NETWORKS)} (default: all), or [NAME=]TYPE:KEY=VALUE,...',
    )
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
    networks = choose_networks(args.networks)
    make_demo_data(DEMO)
    for kind in ('GT', 'BIx4'):
        pack_folder(DEMO / kind, DEMO / f'{kind}.lmdb')
    spynet = args.spynet or (own_flow() if any(map(takes_flow, networks.values())) else OWN_FLOW)
    folders = train_all(networks, spynet, args.iterations, args.seeds, args.jobs)
    benchmark_all(networks, folders, args.iterations, args.vid4, shlex.join(['python', *sys.argv]))


def choose_networks(texts: Sequence[str]) -> dict[str, dict]:
    """Name -> `network_g`: of the table, or as `TYPE:KEY=VALUE,...` says.

    Raises:
        InputError: If there is no such network or argument, or two have one name.
    """
    chosen = {}
    for text in texts:
        entry = NetworkEntry(text, NETWORKS[text]) if text in NETWORKS else parse_network(text)
        if entry.name in chosen:
            raise InputError(f'two networks are called {entry.name}; give one another name (NAME=...).')
        chosen[entry.name] = dict(entry.options)
    return chosen


def takes_flow(network: Mapping) -> bool:
    """Whether a network is given a trained SpyNet."""
    return 'spynet_path' in inspect.signature(ARCH_REGISTRY.get(network['type'])).parameters


def own_flow() -> Path:
    """The weights of a SpyNet trained on the demo clips' known motion, some minutes on a CPU."""
    error = train_spynet(DEMO, OWN_FLOW)
    print(f'{OWN_FLOW}: end-point error {error:.3f} LR pixels on the held-out clips', flush=True)
    return OWN_FLOW


def train_all(
    networks: Mapping[str, dict], spynet_path: Path, iterations: int, seeds: Sequence[int], jobs: int
) -> dict[tuple[str, int], Path]:
    """Train every network with every seed; what is trained already is kept.

    Args:
        networks: Name -> `network_g`.
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
            (name, seed): pool.submit(
                train_with, training_options(name, network, seed, spynet_path, iterations), RESULTS
            )
            for seed in seeds
            for name, network in networks.items()
        }
        try:
            return {run: folder.result() for run, folder in folders.items()}
        except InputError:
            for folder in folders.values():
                folder.cancel()
            raise


def training_options(name: str, network: Mapping, seed: int, spynet_path: Path, iterations: int) -> dict:
    """The demo training's options with another network."""
    experiment = f'compare_{name}_{iterations}_seed{seed}'
    if takes_flow(network) and spynet_path == OWN_FLOW:
        experiment += '_own_flow'
    opt = yaml.safe_load(OPTIONS.read_text(encoding='utf-8'))
    opt.update(name=experiment, manual_seed=seed)
    opt['network_g'] = dict(network)
    if takes_flow(network):
        opt['network_g']['spynet_path'] = str(spynet_path)
    opt['datasets']['train']['num_frame'] = NUM_FRAME
    opt['train'].update(total_iter=iterations, fix_flow=iterations + 1)
    opt['train']['optim_g']['lr'] = 1e-3
    opt['train']['scheduler']['periods'] = [iterations]
    opt['val']['val_freq'] = iterations
    opt['logger']['save_checkpoint_freq'] = max(iterations // 5, 1)
    return opt


def benchmark_all(
    networks: Mapping[str, dict],
    folders: Mapping[tuple[str, int], Path],
    iterations: int,
    vid4: Path | None,
    command: str,
) -> None:
    """Benchmark the trained networks on the held-out demo clips (RGB) and on Vid4 (Y); print both tables.

    Args:
        networks: Name -> `network_g`.
        folders: The experiment's folder of each (network, seed).
        iterations: Of each training.
        vid4: A folder with GT and BIx4 of Vid4's clips; None to leave it out.
        command: For the reports.
    """
    methods = [
        NetworkMethod(
            NetworkEntry(
                f'{name}, seed {seed}',
                dict(networks[name]),
                str(folders[name, seed] / 'models' / f'net_g_{iterations}.pth'),
            )
        )
        for name, seed in sorted(folders, key=lambda run: (list(networks).index(run[0]), run[1]))
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
