"""Pack clips into LMDBs that BasicSR reads, convert and verify them. An interrupted run goes on where it was."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from basicsr_plugins.data.frame_formats import LAYOUTS
from basicsr_plugins.data.lmdb_store import pack_folder, pack_reds
from basicsr_plugins.data.lmdb_verification import verify_lmdb

EXAMPLE = """examples:
  python scripts/data_preparation/create_lmdb.py reds --root datasets/REDS --verify
  python scripts/data_preparation/create_lmdb.py folder datasets/Vid4/GT datasets/Vid4/GT.lmdb --layout tiles
  python scripts/data_preparation/create_lmdb.py convert mine/GT.lmdb mine/GT_raw.lmdb --layout raw
  python scripts/data_preparation/create_lmdb.py verify datasets/Vid4/GT.lmdb --source datasets/Vid4/GT
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Pack, convert or verify.

    Args:
        argv: The arguments; None for those of the process.

    Raises:
        InputError: As `pack_folder`, `pack_reds` and `verify_lmdb`.
    """
    args = parse_args(argv)
    if args.command == 'verify':
        verify_lmdb(args.lmdb, args.source, args.num_worker)
        return
    options = {name: getattr(args, name) for name in ('num_worker', 'layout', 'compress_level', 'verify', 'force')}
    if args.command == 'reds':
        pack_reds(args.root, scale=args.scale, **options)
    else:
        pack_folder(args.source, args.lmdb, args.meta_info, **options)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of the command."""
    parser = argparse.ArgumentParser(
        prog='basicsr-plugins lmdb',
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest='command', required=True)
    reds = commands.add_parser(
        'reds', help='pack train_sharp and train_sharp_bicubic/X4, regrouped, and list the clips'
    )
    reds.add_argument('--root', default='datasets/REDS', help='default: %(default)s')
    reds.add_argument('--scale', type=int, default=4, help='of the LR clips, train_sharp_bicubic/X4; default: 4')
    folder = commands.add_parser('folder', help='pack any folder of clips')
    folder.add_argument('source', help='folder with a folder of images for each clip')
    convert = commands.add_parser('convert', help='pack the frames of an LMDB in another layout')
    convert.add_argument('source', help='the LMDB to convert, of any layout')
    for command in (folder, convert):
        command.add_argument('lmdb', help='the LMDB to make, X.lmdb')
        command.add_argument('--meta-info', help='also write a meta info file, with a line per clip')
    for command in (reds, folder, convert):
        command.add_argument(
            '--layout',
            choices=LAYOUTS,
            default='png',
            help='png: as the toolbox reads; raw: fastest, twice as large; tiles: fast, as small as png; '
            'default: %(default)s',
        )
        command.add_argument('--compress-level', type=int, help='of the layout png, 0 to 9; default: 1')
        command.add_argument('--verify', action='store_true', help='compare every frame with its source afterwards')
        command.add_argument('--force', action='store_true', help='rebuild an LMDB that exists')
    verify = commands.add_parser('verify', help='check that every frame of an LMDB is whole')
    verify.add_argument('lmdb', help='the LMDB to check, X.lmdb')
    verify.add_argument('--source', help='folder of clips, or LMDB, that the frames must equal')
    for command in (reds, folder, convert, verify):
        command.add_argument('--num-worker', type=int, help='processes; default: one per core')
    return parser.parse_args(argv)
