"""Make the demo dataset (REDS layout, known motion) from the photographs that ship with scikit-image."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from basicsr_plugins.data.demo_data import make_demo_data


def main(argv: Sequence[str] | None = None) -> None:
    """Make the dataset.

    Args:
        argv: The arguments; None for those of the process.

    Raises:
        InputError: As `make_demo_data`.
    """
    parser = argparse.ArgumentParser(prog='basicsr-plugins demo-data', description=__doc__)
    parser.add_argument('--root', default='datasets/demo', help='folder of the dataset (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='another seed gives other motion (default: %(default)s)')
    args = parser.parse_args(argv)
    made = make_demo_data(args.root, args.seed)
    print(f'{args.root}: {"made" if made else "already there and whole"}')
