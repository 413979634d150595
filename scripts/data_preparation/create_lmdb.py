"""Pack clips into LMDBs that BasicSR reads, and verify them. An interrupted run goes on where it was."""

import argparse

from basicsr_plugins.data.lmdb_store import pack_folder, pack_reds, verify_lmdb
from basicsr_plugins.errors import run_script

EXAMPLE = """examples:
  python scripts/data_preparation/create_lmdb.py reds --root datasets/REDS --verify
  python scripts/data_preparation/create_lmdb.py folder datasets/Vid4/GT datasets/Vid4/GT.lmdb
  python scripts/data_preparation/create_lmdb.py verify datasets/Vid4/GT.lmdb --source datasets/Vid4/GT
"""


def main():
    args = parse_args()
    if args.command == 'verify':
        verify_lmdb(args.lmdb, args.source, args.num_worker)
        return
    options = {name: getattr(args, name) for name in ('num_worker', 'compress_level', 'verify', 'force')}
    if args.command == 'reds':
        pack_reds(args.root, **options)
    else:
        pack_folder(args.source, args.lmdb, args.meta_info, **options)


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest='command', required=True)
    reds = commands.add_parser(
        'reds', help='pack train_sharp and train_sharp_bicubic/X4, regrouped, and list the clips'
    )
    reds.add_argument('--root', default='datasets/REDS', help='default: %(default)s')
    folder = commands.add_parser('folder', help='pack any folder of clips')
    folder.add_argument('source', help='folder with a folder of images for each clip')
    folder.add_argument('lmdb', help='the LMDB to make, X.lmdb')
    folder.add_argument('--meta-info', help='also write a meta info file, with a line per clip')
    for command in (reds, folder):
        command.add_argument('--compress-level', type=int, default=1, help='of PNG, 0 to 9; default: %(default)s')
        command.add_argument('--verify', action='store_true', help='compare every frame with its source afterwards')
        command.add_argument('--force', action='store_true', help='rebuild an LMDB that exists')
    verify = commands.add_parser('verify', help='check that every frame of an LMDB is whole')
    verify.add_argument('lmdb', help='the LMDB to check, X.lmdb')
    verify.add_argument('--source', help='folder of clips that the frames must equal')
    for command in (reds, folder, verify):
        command.add_argument('--num-worker', type=int, help='processes; default: one per core')
    return parser.parse_args()


if __name__ == '__main__':
    run_script(main)
