"""Export a trained network as ONNX files, which run without PyTorch and this package; a recurrent one step by step.

    basicsr-plugins export experiments/EFAR_REDS/models/net_g_latest.pth -o EFAR_onnx
    basicsr-plugins export BasicVSR.pth --network BasicVSR:num_feat=64,num_block=30 -o BasicVSR_onnx

docs/export.md says what is in the folder; `basicsr-plugins upscale --checkpoint FOLDER` runs it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from basicsr_plugins.errors import InputError
from basicsr_plugins.inference.exported import write_export
from basicsr_plugins.upscaling import load_network


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='basicsr-plugins export', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkpoint', nargs='?', help='weights; params_ema are taken first')
    parser.add_argument('-o', '--output', required=True, type=Path, metavar='FOLDER', help='where to')
    parser.add_argument(
        '--network',
        metavar='TYPE[:KEY=VALUE,...]',
        help="the network, or an option file; default: the option file in the checkpoint's experiment folder",
    )
    parser.add_argument('--scale', type=int, help='of a network that takes enlarged frames, as TOFlow (default 4)')
    parser.add_argument('--force', action='store_true', help='overwrite an export that is there')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; `argv` as of `argparse`.

    Raises:
        InputError: If something that the user gave cannot be used, or the network cannot be exported.
    """
    args = parse_args(argv)
    if args.output.is_dir() and any(args.output.iterdir()) and not args.force:
        raise InputError(f'{args.output} is not empty; name another folder, or overwrite the export in it by --force.')
    files = write_export(load_network(args.checkpoint, args.network, 'cpu', args.scale), args.output, args.force)
    size = sum(path.stat().st_size for path in files) / 2**20
    print(f'{args.output}: {len(files)} files, {size:.1f} MiB')
