"""What `stream` loses against `exact` with fewer frames of lookahead, and what tiles change.

    python scripts/benchmark_lookahead.py datasets/Vid4/BIx4/city --crop 96 112 \\
        --checkpoint experiments/compare_EFAR_1000_seed0/models/net_g_1000.pth
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from basicsr_plugins.errors import run_script
from basicsr_plugins.inference import UpscaleSettings, upscale_frames
from basicsr_plugins.upscaling import load_network
from basicsr_plugins.video.opening import open_source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('frames', help='a video, a folder or a glob of images')
    parser.add_argument('--checkpoint', required=True)
    parser.add_argument('--network', help="default: of the checkpoint's experiment")
    parser.add_argument('--lookahead', type=int, nargs='+', default=[0, 5, 10, 20])
    parser.add_argument(
        '--crop', type=int, nargs=2, metavar=('HEIGHT', 'WIDTH'), help='of the LR frames, in the middle'
    )
    parser.add_argument('--tile', type=int, nargs='+', default=[72], help='LR pixels')
    args = parser.parse_args()
    net = load_network(args.checkpoint, args.network)
    frames = torch.stack(list(open_source(args.frames)))
    if args.crop:
        top, left = ((side - size) // 2 for side, size in zip(frames.shape[2:], args.crop))
        frames = frames[..., top : top + args.crop[0], left : left + args.crop[1]]
    exact = run(net, frames, segment=len(frames))
    print(f'{len(frames)} frames of {frames.size(3)}x{frames.size(2)}, compared with exact')
    print(f'{"":<24}{"PSNR (dB)":>12}{"largest (grey levels)":>24}')
    for lookahead in args.lookahead:
        difference(f'stream, lookahead {lookahead}', run(net, frames, 'stream', segment=1, lookahead=lookahead), exact)
    for tile in args.tile:
        difference(f'exact, tiles of {tile}', run(net, frames, tile=tile), exact)


def run(net: nn.Module, frames: Sequence[Tensor], mode: str = 'exact', **settings) -> Tensor:
    settings = UpscaleSettings(mode=mode, scene_cuts=False, **settings)
    return torch.stack(list(upscale_frames(net, frames, settings))).clamp(0, 1)


def difference(label: str, restored: Tensor, exact: Tensor) -> None:
    error = (restored - exact).double()
    mse = error.square().mean().item()
    psnr = 'the same' if mse == 0 else f'{-10 * math.log10(mse):.1f}'
    print(f'{label:<24}{psnr:>12}{255 * error.abs().max().item():>24.4f}', flush=True)


if __name__ == '__main__':
    run_script(main)
