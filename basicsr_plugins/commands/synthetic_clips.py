"""Write generated clips, GT and LR, as folders of PNGs; pack them with `basicsr-plugins lmdb` if need be."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from basicsr_plugins.files import parse_size

EXAMPLE = """examples:
  basicsr-plugins synthetic-clips datasets/generated --number 200 --num-frame 15 --size 256x256
  basicsr-plugins synthetic-clips datasets/generated_val --held-out --number 8 --degradation film
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Read the arguments and write the clips.

    Args:
        argv: The arguments; None for those of the process.

    Raises:
        InputError: As `data.synthetic_clips.write_clips`.
    """
    parser = argparse.ArgumentParser(
        prog='basicsr-plugins synthetic-clips',
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('output', help='folder to make, with GT and BIx4 (or LQ, with --degradation)')
    parser.add_argument('--number', type=int, default=100, help='clips; default: %(default)s')
    parser.add_argument('--num-frame', type=int, default=20, help='frames of a clip; default: %(default)s')
    parser.add_argument('--size', default='192x256', help='HEIGHTxWIDTH of GT; default: %(default)s')
    parser.add_argument('--scale', type=int, default=4, help='default: %(default)s')
    parser.add_argument('--seed', type=int, default=0, help='default: %(default)s')
    parser.add_argument('--degradation', help='a preset, film or realbasicvsr; default: bicubic')
    parser.add_argument('--photos', default=True, metavar='FOLDER', help='photographs; default: those of packages')
    parser.add_argument('--held-out', action='store_true', help='of the photographs that no training shows')
    args = parser.parse_args(argv)
    # BasicSR takes seconds to import
    from basicsr_plugins.data.synthetic_clips import write_clips

    made = write_clips(
        args.output,
        args.number,
        args.num_frame,
        parse_size(args.size, '--size'),
        args.seed,
        args.scale,
        args.degradation,
        args.photos,
        args.held_out,
    )
    print(f'{args.output}: {args.number} clips of {args.num_frame} frames {"made" if made else "are there already"}.')
