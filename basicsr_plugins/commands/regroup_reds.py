"""Add the validation clips of REDS to its training folders, as clips 240 to 269. An interrupted run can be repeated."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from basicsr_plugins.data.regroup import regroup_reds

EXAMPLE = """example:
  python scripts/data_preparation/regroup_reds.py --root datasets/REDS --link

  datasets/REDS/val_sharp/000             -> train_sharp/240
  datasets/REDS/val_sharp_bicubic/X4/000  -> train_sharp_bicubic/X4/240
"""
PARTS = {
    'gt': ('train_sharp', 'val_sharp'),
    'lq': ('train_sharp_bicubic/X4', 'val_sharp_bicubic/X4'),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Add the clips.

    Args:
        argv: The arguments; None for those of the process.

    Raises:
        InputError: As `regroup_reds`.
    """
    parser = argparse.ArgumentParser(
        prog='basicsr-plugins regroup-reds',
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--root', type=Path, default='datasets/REDS', help='default: %(default)s')
    parser.add_argument('--only', choices=PARTS, help='ground truth or low resolution; default: both')
    parser.add_argument('--link', action='store_true', help='make hard links, which take no room, instead of copies')
    args = parser.parse_args(argv)
    for part in [args.only] if args.only else PARTS:
        train, val = PARTS[part]
        regroup_reds(args.root / train, args.root / val, args.link)
