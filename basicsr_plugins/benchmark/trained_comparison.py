"""Train several networks alike on the demo clips, and benchmark them on clips that none has seen.

The networks are small, have about the same number of parameters beside the flow network, and see the same clips,
patches, window length, iterations and seeds; the flow network of those that have one is trained beforehand and stays as
it is.
"""

from __future__ import annotations

import concurrent.futures
import copy
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from basicsr_plugins.benchmark.clips import find_roots
from basicsr_plugins.benchmark.evaluation import Protocol
from basicsr_plugins.benchmark.flow_training import train_spynet
from basicsr_plugins.benchmark.report import terminal_table
from basicsr_plugins.benchmark.runner import Benchmark, ProfileSettings, run_benchmark
from basicsr_plugins.data.demo_data import HELD_OUT, make_demo_data
from basicsr_plugins.data.lmdb_store import pack_folder
from basicsr_plugins.errors import InputError
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


def make_data() -> None:
    """The demo clips and their LMDBs, as the quickstart makes them."""
    make_demo_data(DEMO)
    for kind in ('GT', 'BIx4'):
        pack_folder(DEMO / kind, DEMO / f'{kind}.lmdb')


def flow_weights(spynet_path: Path | None) -> Path:
    """The weights given, or those of a SpyNet trained on the demo clips' known motion, some minutes on a CPU."""
    if spynet_path is None:
        spynet_path = OWN_FLOW
        error = train_spynet(DEMO, spynet_path)
        print(f'{spynet_path}: end-point error {error:.3f} LR pixels on the held-out clips', flush=True)
    return spynet_path


def train_all(
    spynet_path: Path | None, iterations: int, seeds: Sequence[int], jobs: int
) -> dict[tuple[str, int], Path]:
    """Train every network with every seed, by BasicSR's own trainer; what is trained already is kept.

    Args:
        spynet_path: The flow network's weights; without, see `flow_weights`.
        iterations: Of each training.
        seeds: Of the trainings.
        jobs: Trainings at a time, of one thread each.

    Returns:
        The experiment's folder of each (network, seed).

    Raises:
        InputError: If a training fails, naming its log.
    """
    spynet_path = flow_weights(spynet_path)
    runs = [(name, seed) for seed in seeds for name in NETWORKS]
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        folders = {run: pool.submit(train, *run, spynet_path, iterations) for run in runs}
        try:
            return {run: folder.result() for run, folder in folders.items()}
        except InputError:
            for folder in folders.values():
                folder.cancel()
            raise


def train(name: str, seed: int, spynet_path: Path, iterations: int) -> Path:
    """Train one network, or go on with it; its experiment's folder."""
    experiment = f'compare_{name}_{iterations}_seed{seed}'
    if name in WITH_FLOW and spynet_path == OWN_FLOW:
        experiment += '_own_flow'
    folder = Path('experiments') / experiment
    RESULTS.mkdir(parents=True, exist_ok=True)
    option_file = RESULTS / f'{experiment}.yml'
    options = yaml.safe_dump(training_options(name, seed, experiment, spynet_path, iterations))
    if folder.is_dir() and option_file.is_file() and option_file.read_text() != options:
        raise InputError(f'{folder} was trained with other options than now; move it away, or {option_file}')
    option_file.write_text(options)
    if (folder / 'models' / f'net_g_{iterations}.pth').is_file():
        print(f'{folder} is trained already', flush=True)
        return folder
    log = RESULTS / f'{experiment}.log'
    command = [sys.executable, '-m', 'basicsr.train', '-opt', str(option_file), '--auto_resume']
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'OMP_WAIT_POLICY': 'passive'}
    print(f'python {" ".join(command[1:])}   (log: {log})', flush=True)
    with open(log, 'w', encoding='utf-8') as file:
        result = subprocess.run(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
    if result.returncode != 0:
        raise InputError(f'training {name} stopped with exit code {result.returncode}; {log} says why')
    return folder


def training_options(name: str, seed: int, experiment: str, spynet_path: Path, iterations: int) -> dict:
    """The demo training's options with another network."""
    opt = copy.deepcopy(yaml.safe_load(OPTIONS.read_text(encoding='utf-8')))
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
    entries = [
        NetworkEntry(
            f'{name}, seed {seed}',
            dict(NETWORKS[name]),
            str(folders[name, seed] / 'models' / f'net_g_{iterations}.pth'),
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
            entries=entries,
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
