"""What the drills upscale: a small film and its frames, a checkpoint of a small EFAR, and the command on them."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from basicsr.archs import build_network

from basicsr_plugins.commands.upscale import main
from basicsr_plugins.errors import run_script

EFAR = {'type': 'EFAR', 'num_feat': 4, 'num_block': 1}
NETWORK = 'EFAR:num_feat=4,num_block=1'
OTHER = 'Bicubic'


def make_inputs(folder: Path, num_frame: int) -> None:
    """`film.mp4` of two scenes, 48x32, the same as PNGs in `frames`, and `net.pth`."""
    rng = np.random.default_rng(0)
    scenes = [rng.integers(0, 256, (4, 6, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1) for _ in range(2)]
    (folder / 'frames').mkdir()
    with av.open(str(folder / 'film.mp4'), 'w') as output:
        stream = output.add_stream('libx264', rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = 48, 32, 'yuv420p'
        for i in range(num_frame):
            image = np.roll(scenes[2 * i // num_frame], (i, 2 * i), (0, 1))
            cv2.imwrite(str(folder / 'frames' / f'{i:03d}.png'), image[..., ::-1])
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format='rgb24')))
        output.mux(stream.encode(None))
    torch.manual_seed(0)
    torch.save({'params': build_network(dict(EFAR)).state_dict()}, folder / 'net.pth')


def upscaling(source: Path, output: Path, *options: str, checkpoint: Path | None = None) -> Callable[[], object]:
    """The command with the small EFAR, of a checkpoint or exported, or with bicubic, as a process's work."""
    network = ('--network', OTHER) if checkpoint is None else ('--checkpoint', str(checkpoint))
    if checkpoint is not None and not checkpoint.is_dir():
        network = (*network, '--network', NETWORK)
    settings = ('--segment', '4', '--segment-frames', '5', '--preset', 'ultrafast', '--lookahead', '2')
    return lambda: run_script(lambda: main([str(source), '-o', str(output), *network, *settings, *options]))


def contents(output: Path) -> dict[str, bytes] | None:
    """The bytes of an output's files; None where there is none."""
    if not output.exists():
        return None
    files = sorted(output.iterdir()) if output.is_dir() else [output]
    return {file.name if output.is_dir() else '': file.read_bytes() for file in files}
