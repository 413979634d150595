"""The command `basicsr-plugins`: each of its subcommands is the `main(argv)` of a module of this folder.

A module is imported when its command runs, so that `--help` and a wrong name take no time.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

import basicsr_plugins
from basicsr_plugins.errors import InputError, run_script, suggest

COMMANDS = {  # name -> what it does; `bicubic-lr` is bicubic_lr.py
    'upscale': 'upscale a video of any length, or a folder of images',
    'export': 'write a network as ONNX files, which run without PyTorch',
    'weights': 'list the weights that come with the package',
    'benchmark': 'compare networks: how good, how fast, how big, and what it looks like',
    'options': 'list the keys that an option file may have, class by class',
    'lmdb': 'pack clips into LMDBs that BasicSR reads, and verify them',
    'bicubic-lr': 'make MATLAB-bicubic low-resolution clips from ground truth',
    'regroup-reds': 'add the validation clips of REDS to its training clips',
    'demo-data': 'make a small dataset of known motion',
    'synthetic-clips': 'write generated clips of known motion: training material without end, or held-out clips',
    'quickstart': 'train a small EFAR on demo clips and compare it with bicubic (in a checkout)',
}


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run a subcommand.

    Args:
        argv: Its name and its arguments; None for those of the process.

    Returns:
        Its exit code.

    Raises:
        InputError: If there is no such command, or as the command says.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        prog='basicsr-plugins',
        usage='basicsr-plugins COMMAND [ARGUMENTS]',
        description='Video super-resolution for BasicSR. `basicsr-plugins COMMAND --help` says more.',
        epilog='commands:\n' + '\n'.join(f'  {name:<{width}}  {text}' for name, text in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('command', metavar='COMMAND', help='one of those below')
    parser.add_argument('--version', action='version', version=basicsr_plugins.__version__)
    name = parser.parse_args(argv[:1]).command
    if name not in COMMANDS:
        raise InputError(f'there is no command {name!r}; {suggest(name, COMMANDS)}')
    return importlib.import_module(f'{__name__}.{name.replace("-", "_")}').main(argv[1:])


def run() -> None:
    """The console command: `main`, and exit."""
    run_script(main)
