"""Run BasicSR's own trainer and test in a process of their own: the same log, threads and errors for every recipe."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from tqdm import tqdm

from basicsr_plugins.errors import InputError
from basicsr_plugins.files import write_atomically
from basicsr_plugins.models.training_forward import emulates_bfloat16


def train(
    option_file: Path, results: Path, fresh: bool = False, show: Callable[[str], None] = lambda line: None
) -> Path:
    """Train by an option file, go on with an interrupted training, or keep a finished one.

    Args:
        option_file: Of a training.
        results: The folder of its log.
        fresh: Train anew where a trained network is there already; the toolbox moves the earlier experiment aside.
        show: Gets each line that the trainer prints.

    Returns:
        The experiment's folder, in which models/net_g_latest.pth is the trained network.

    Raises:
        InputError: If the training fails, naming its log.
    """
    options = yaml.safe_load(option_file.read_text(encoding='utf-8'))
    folder = Path('experiments') / options['name']
    # latest is written last; of an earlier, shorter training there would be only that
    names = ('latest', options['train']['total_iter'])
    if not fresh and all((folder / 'models' / f'net_g_{name}.pth').is_file() for name in names):
        print(f'{folder} is trained already', flush=True)
        return folder
    arguments = [] if fresh else ['--auto_resume']
    # The patches are so small that a second thread only waits for the first; the data has a process of its own.
    run_toolbox('basicsr.train', option_file, results, arguments, show, threads=1)
    return folder


def train_with(options: dict, results: Path) -> Path:
    """`train` by options that are not on file yet; they are written to `results`.

    Raises:
        InputError: As `train`, and if an earlier training of this name had other options.
    """
    option_file = results / f'{options["name"]}.yml'
    text = yaml.safe_dump(options, sort_keys=False)
    folder = Path('experiments') / options['name']
    if folder.is_dir() and option_file.is_file() and option_file.read_text(encoding='utf-8') != text:
        raise InputError(f'{folder} was trained with other options than now; move it away, or {option_file}.')
    results.mkdir(parents=True, exist_ok=True)
    write_atomically(option_file, text)
    return train(option_file, results)


def fast_precision() -> str:
    """`train: amp` as it is fast here: bfloat16 where that is in the arithmetic of the GPU or the processor."""
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    return 'none' if emulates_bfloat16(device) else 'bfloat16'


def run_toolbox(
    module: str,
    option_file: Path,
    results: Path,
    arguments: list[str] | None = None,
    show: Callable[[str], None] = lambda line: None,
    threads: int | None = None,
) -> None:
    """Run `python -m module -opt option_file arguments`.

    Args:
        module: `basicsr.train` or `basicsr.test`.
        option_file: Its options.
        results: The folder of the log of what it prints.
        arguments: Further ones.
        show: Gets each line that it prints; what it raises ends the run.
        threads: Of its computations; default: as many as PyTorch takes.

    Raises:
        InputError: If it fails, naming the log, whose last lines go to standard error.
    """
    log_path = results / f'{module}_{option_file.stem}.log'
    command = [sys.executable, '-m', module, '-opt', str(option_file), *(arguments or [])]
    tqdm.write(f'python {" ".join(command[1:])}   (log: {log_path})')
    environment = {**os.environ, **({'OMP_NUM_THREADS': str(threads)} if threads else {})}
    with open(log_path, 'w', encoding='utf-8') as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        with process:
            try:
                for line in process.stdout:
                    log.write(line)
                    log.flush()
                    show(line)
            except BaseException:
                process.terminate()
                raise
    if process.returncode:
        last_lines = ''.join(log_path.read_text(encoding='utf-8').splitlines(keepends=True)[-5:])
        print(last_lines, end='', file=sys.stderr)
        raise InputError(f'python -m {module} stopped with exit code {process.returncode}; {log_path} says why.')
