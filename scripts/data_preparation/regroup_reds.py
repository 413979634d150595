"""Add the validation clips of REDS to its training folders, as clips 240 to 269. An interrupted run can be repeated."""

import argparse
from pathlib import Path

from basicsr_plugins.data.regroup import regroup_reds
from basicsr_plugins.errors import run_script

EXAMPLE = """example:
  python scripts/data_preparation/regroup_reds.py --root datasets/REDS --link

  datasets/REDS/val_sharp/000             -> train_sharp/240
  datasets/REDS/val_sharp_bicubic/X4/000  -> train_sharp_bicubic/X4/240
"""
PARTS = {
    'gt': ('train_sharp', 'val_sharp'),
    'lq': ('train_sharp_bicubic/X4', 'val_sharp_bicubic/X4'),
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--root', type=Path, default='datasets/REDS', help='default: %(default)s')
    parser.add_argument('--only', choices=PARTS, help='ground truth or low resolution; default: both')
    parser.add_argument('--link', action='store_true', help='make hard links, which take no room, instead of copies')
    args = parser.parse_args()
    for part in [args.only] if args.only else PARTS:
        train, val = PARTS[part]
        regroup_reds(args.root / train, args.root / val, args.link)


if __name__ == '__main__':
    run_script(main)
