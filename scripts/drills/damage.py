"""Drill: bytes flipped in checkpoints, clips, films and what interrupted runs left, each upscaled then.

    python scripts/drills/damage.py --count 100 --seed 0

By turns one of the four has one to three of its bytes changed, or is cut off. Right is: the exact result of what is
undamaged (the byte says nothing), or one sentence and exit code 1 without an output. H.264 has no checksums, so a
damaged film may be decoded to other frames than it had: right is then what PyAV by itself decodes, upscaled, to the end
(`decoded alike`) or, with a note, up to the last good frame.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

import av
import torch
from films import NETWORK, contents, make_inputs, upscaling
from processes import finish, print_table, refuses, start

from basicsr_plugins.errors import run_script
from basicsr_plugins.inference import upscale_frames
from basicsr_plugins.upscaling import load_network
from basicsr_plugins.video.colour import frame_to_rgb
from basicsr_plugins.video.images import encode_png
from basicsr_plugins.video.opening import open_source

KINDS = ('checkpoint', 'clip', 'film', 'interrupted run')
SECONDS = 120  # that nothing may take


def damage(path: Path, rng: random.Random) -> None:
    """Change one to three bytes of a file, or cut it off."""
    data = bytearray(path.read_bytes())
    if not data:
        return
    if rng.random() < 0.2:
        del data[rng.randrange(len(data)) :]
    else:
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] ^= rng.randrange(1, 256)
    path.write_bytes(data)


def upscale(source: Path, output: Path, checkpoint: Path, *options: str) -> tuple[int, str]:
    def work():
        signal.alarm(SECONDS)
        upscaling(source, output, *options, checkpoint=checkpoint)()

    return finish(start(work, output.parent), output.parent)


def leave_interrupted(inputs: Path, output: Path) -> None:
    """Kill a run when it has finished some frames."""
    work = upscaling(inputs / 'frames', output, '--segment', '3', checkpoint=inputs / 'net.pth')
    child = start(work, output.parent)
    deadline = time.monotonic() + SECONDS
    while len(list(output.parent.glob('.*.parts/seg_*.json'))) < 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    finish(child, output.parent)


def upscale_decoded(film: Path, checkpoint: Path, number: int) -> dict[str, bytes]:
    """The first PNGs of a film, of the frames that PyAV decodes without what this package adds to it."""
    frames, colour = [], open_source(film).colour
    with av.open(str(film)) as container, contextlib.suppress(av.error.FFmpegError):
        for frame in container.decode(video=0):
            frames.append(frame_to_rgb(frame, colour))
    restored = upscale_frames(load_network(checkpoint, NETWORK, 'cpu'), frames[:number])
    return {f'{i:08d}.png': encode_png(frame, 8) for i, frame in enumerate(restored)}


def drill(kind: str, inputs: Path, expected: dict, folder: Path, rng: random.Random) -> str:
    """Damage one thing in a copy of the inputs, upscale, and judge."""
    shutil.copytree(inputs, folder)
    source = folder / ('film.mp4' if kind == 'film' else 'frames')
    output = folder / ('out.mp4' if kind == 'interrupted run' else 'out')
    options = []
    if kind == 'interrupted run':
        leave_interrupted(folder, output)
        files = [file for file in folder.glob('.*.parts/**/*') if file.is_file()]
        if files:
            damage(rng.choice(files), rng)
        options = ['--resume', '--segment', '3']
    elif kind == 'clip':
        damage(rng.choice(sorted(source.iterdir())), rng)
    else:
        damage(folder / ('net.pth' if kind == 'checkpoint' else 'film.mp4'), rng)
    code, error = upscale(source, output, folder / 'net.pth', *options)
    if refuses(code, error) and not output.exists():
        return 'refused'
    if code == 0 and contents(output) == expected[kind]:
        return 'exact'
    if code == 0 and kind == 'film':
        left = contents(output)
        if left == upscale_decoded(source, folder / 'net.pth', len(left)):
            return (
                'ends at the last good frame, with a note' if 'is damaged: its frames end' in error else 'decoded alike'
            )
    print(error)
    return 'wrong'


def main() -> int:
    """Run the drill; 0 if everything ended as it should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--count', type=int, default=100, help='damaged things')
    parser.add_argument('--seed', type=int, default=0, help='of the first; each has the next one')
    args = parser.parse_args()
    torch.set_num_threads(1)
    counts = Counter()
    root = Path(tempfile.mkdtemp())
    try:
        inputs = root / 'inputs'
        inputs.mkdir()
        make_inputs(inputs, 12)
        expected = {}
        for kind in KINDS:
            folder = root / f'expected {kind}'
            folder.mkdir()
            source = inputs / ('film.mp4' if kind == 'film' else 'frames')
            output = folder / ('out.mp4' if kind == 'interrupted run' else 'out')
            options = ['--segment', '3'] if kind == 'interrupted run' else []
            upscale(source, output, inputs / 'net.pth', *options)
            expected[kind] = contents(output)
        for seed in range(args.seed, args.seed + args.count):
            kind = KINDS[seed % len(KINDS)]
            result = drill(kind, inputs, expected, root / str(seed), random.Random(seed))
            counts[f'damaged {kind}', result] += 1
            if result == 'wrong':
                print(f'seed {seed}, damaged {kind}: wrong', flush=True)
            shutil.rmtree(root / str(seed))
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return print_table(counts)


if __name__ == '__main__':
    run_script(main)
