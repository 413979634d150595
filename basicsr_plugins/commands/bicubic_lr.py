"""Make MATLAB-bicubic, or blurred, low-resolution clips from ground truth. An interrupted run goes on where it was."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from basicsr_plugins.data.bicubic_lr import make_bicubic_lr
from basicsr_plugins.scales import parse_scale

EXAMPLE = """example:
  python scripts/data_preparation/generate_bicubic_lr.py datasets/Vid4/GT datasets/Vid4/BIx4 --scale 4
  python scripts/data_preparation/generate_bicubic_lr.py datasets/Vid4/GT datasets/Vid4/BDx4 --degradation bd_duf
  cd datasets/REDS; basicsr-plugins bicubic-lr train_sharp train_sharp_bicubic/X2 --scale 2
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Make the clips.

    Args:
        argv: The arguments; None for those of the process.

    Raises:
        InputError: As `make_bicubic_lr`.
    """
    parser = argparse.ArgumentParser(
        prog='basicsr-plugins bicubic-lr',
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('source', help='folder of ground-truth clips')
    parser.add_argument('output', help='folder to write the low-resolution clips to')
    parser.add_argument(
        '--scale',
        default='4',
        help='a factor, 3, 2.7 or 8/3, or two, horizontal by vertical, 3x1.5; from 1 to 16; default: %(default)s',
    )
    parser.add_argument('--num-worker', type=int, help='processes; default: one per core')
    parser.add_argument(
        '--degradation',
        help='instead of bicubic: blur and decimation as bd_duf, bd_mmagic or bd_tecogan (see data/bd_lr.py)',
    )
    args = parser.parse_args(argv)
    make_bicubic_lr(args.source, args.output, parse_scale(args.scale, '--scale'), args.num_worker, args.degradation)
