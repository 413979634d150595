"""Upscale a video of any length, or a folder of images, by a trained network; memory does not grow with its length.

    python scripts/upscale.py film.mp4 -o film_x4.mp4
    python scripts/upscale.py film.mp4 -o film_x4.mp4 --weights experiments/EFAR_REDS/models/net_g_latest.pth
    python scripts/upscale.py film.mp4 -o film_1080.mp4 --fit 1920x1080 --weights experiments/BasicAVSR_REDS/...
    python scripts/upscale.py frames/ -o frames_x4/ --weights basicvsr_reds4.pth
    python scripts/upscale.py 'frames/*.png' -o film.mkv --codec hevc --fps 24 --compare film_compare.mkv ...

    torchrun --nproc_per_node 4 -m basicsr_plugins upscale film.mp4 -o film_x4.mp4   # scenes shared by four processes

Interrupted (Ctrl-C, a crash), the same command with --resume goes on.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from basicsr_plugins.errors import InputError
from basicsr_plugins.inference.precision import choose_dtype
from basicsr_plugins.inference.sessions import RUNTIMES
from basicsr_plugins.inference.settings import UpscaleSettings
from basicsr_plugins.output_size import parse_output_size
from basicsr_plugins.upscaling import choose_weights, load_network, upscale
from basicsr_plugins.upscaling_shared import is_shared, upscale_shared
from basicsr_plugins.video.film_target import ENCODERS
from basicsr_plugins.video.media import VideoSettings
from basicsr_plugins.video.opening import open_source

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='basicsr-plugins upscale', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('input', help='a video file, a folder of images, or a glob in quotes')
    parser.add_argument('-o', '--output', required=True, help='a video file (.mp4, .mkv, .mov), or a folder for PNGs')
    group = parser.add_argument_group('network')
    group.add_argument(
        '--weights',
        '--checkpoint',
        metavar='NAME|FILE|FOLDER',
        help='shipped weights (see `basicsr-plugins weights`), a file (.pth, .safetensors), or the folder of an '
        'exported network; default: those shipped for a video file or for images',
    )
    group.add_argument(
        '--network',
        metavar='TYPE[:KEY=VALUE,...]',
        help='the network, or an option file; default: what the weights say',
    )
    group.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:1 ...')
    group.add_argument(
        '--runtime',
        default='auto',
        choices=('auto', 'torch', *RUNTIMES),
        help='what runs the network; auto: OpenVINO on a CPU where it is installed, else PyTorch',
    )
    group.add_argument(
        '--dtype',
        default='float32',
        choices=('auto', *DTYPES),
        help="of the computation; auto: the fastest that is as good as float32 on the film's first frames",
    )
    group.add_argument(
        '--compile',
        action='store_true',
        help="compile PyTorch's steps, on CUDA to CUDA graphs: faster after a slow start",
    )
    group = parser.add_argument_group('size (default: as the network enlarges; of one that cannot, frames are resized)')
    group.add_argument('--scale', help='a factor, 2.7 or 8/3, or two, horizontal by vertical, 3x1.5; from 1 to 16')
    group.add_argument('--size', metavar='WxH', help='the size of the frames, as 1920x1080')
    group.add_argument('--fit', metavar='WxH', help='the largest size that fits in, the shape of the picture kept')
    group = parser.add_argument_group('propagation')
    group.add_argument(
        '--mode', default='exact', choices=('exact', 'stream'), help='exact: as one pass over the whole film (default)'
    )
    group.add_argument('--lookahead', type=int, default=10, help='frames seen ahead by stream')
    group.add_argument('--segment', type=int, default=10, help='frames in memory at a time')
    group.add_argument('--tile', default='auto', help='side of tiles in LR pixels; auto, or none for whole frames')
    group.add_argument('--tile-overlap', type=int, default=32, help='LR pixels')
    group.add_argument('--no-scene-cuts', action='store_true', help='propagate across cuts')
    group.add_argument('--state-dtype', default='float32', choices=('float32', 'float16'), help='of states on disk')
    group.add_argument('--temp-dir', type=Path, help='folder for temporary files; default: beside the output')
    group = parser.add_argument_group('output')
    group.add_argument('--codec', default='h264', choices=tuple(ENCODERS), help='..._nvenc: by an NVIDIA GPU')
    group.add_argument('--crf', type=float, default=18, help='quality, 0 (best) to 51')
    group.add_argument('--preset', default='medium', help="the encoder's speed")
    group.add_argument('--pix-fmt', help='for example yuv444p; default: as the input has it')
    group.add_argument('--bit-depth', type=int, choices=(8, 16), help='of PNGs; default: as the input has it')
    group.add_argument('--fps', default='25', help='of a video made from images')
    group.add_argument('--segment-frames', type=int, default=50, help='frames that an interruption may cost')
    group.add_argument('--compare', metavar='OUTPUT', help='write another output with bicubic at the left')
    group.add_argument('--resume', action='store_true', help='go on from what an interrupted run left')
    group.add_argument('--force', action='store_true', help='overwrite an output that is there')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; `argv` as of `argparse`.

    Raises:
        InputError: If something that the user gave cannot be used.
    """
    args = parse_args(argv)
    output_size = parse_output_size(args.scale, args.size, args.fit)
    is_first = not is_shared() or os.environ['RANK'] == '0'
    if is_shared() and (args.compare or args.dtype == 'auto'):
        raise InputError('--compare and --dtype auto are for one process; leave them out under torchrun.')
    if args.compile and args.dtype == 'auto':
        raise InputError('--dtype auto measures steps that are not compiled; name a dtype beside --compile.')
    weights = args.weights
    if weights is None and args.network is None:
        weights, note = choose_weights(args.input, args.device)
        if is_first:
            print(f'note: {note or f"the weights are {weights}."}', file=sys.stderr)
    runtime = 'torch' if args.compile and args.runtime == 'auto' else args.runtime
    load = partial(load_network, weights, args.network, args.device, None, runtime)
    if args.dtype == 'auto':
        dtype, why = choose_dtype(load, open_source(args.input))
        print(f'note: {why}', file=sys.stderr)
    else:
        dtype = DTYPES[args.dtype]
    net = load(dtype)
    settings = UpscaleSettings(
        mode=args.mode,
        segment=args.segment,
        lookahead=args.lookahead,
        temp_dir=args.temp_dir,
        state_dtype=DTYPES[args.state_dtype],
        dtype=dtype,
        tile=tile_side(args.tile),
        tile_overlap=args.tile_overlap,
        scene_cuts=not args.no_scene_cuts,
        compiled=args.compile,
    )
    video = VideoSettings(
        codec=args.codec,
        crf=args.crf,
        preset=args.preset,
        pix_fmt=args.pix_fmt,
        bit_depth=args.bit_depth,
        fps=args.fps,
        segment_frames=args.segment_frames,
    )
    try:
        files = (net, args.input, args.output, settings, video, args.resume, args.force)
        if is_shared():
            upscale_shared(*files, output_size=output_size)
        else:
            upscale(*files, args.compare, output_size=output_size)
    except KeyboardInterrupt:
        print('What is finished is kept; the same command with --resume goes on.', file=sys.stderr)
        raise
    if is_first:
        print(args.output)


def tile_side(text: str) -> int | str | None:
    """What `UpscaleSettings.tile` is for `auto`, `none` or a number."""
    if text in ('auto', 'none'):
        return None if text == 'none' else text
    if not (text.isascii() and text.isdigit()):
        raise InputError(f'--tile must be auto, none or a number of pixels, but is {text!r}.')
    return int(text)
