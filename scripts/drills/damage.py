"""Drill: bytes flipped in checkpoints, exports, clips, films and what interrupted runs left, each upscaled then; and in
clip stores (LMDBs), verified then.

    python scripts/drills/damage.py --count 100 --seed 0

By turns one of them has one to three of its bytes changed, or is cut off. Right is: the exact result of what is
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
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import av
import torch
from films import NETWORK, contents, make_inputs, upscaling
from processes import SECONDS, finish, print_table, refuses, start, wait_for

from basicsr_plugins.commands.lmdb import main as pack
from basicsr_plugins.data.frame_formats import LAYOUTS
from basicsr_plugins.errors import run_script
from basicsr_plugins.inference import upscale_frames
from basicsr_plugins.inference.exported import write_export
from basicsr_plugins.upscaling import load_network
from basicsr_plugins.video.colour import frame_to_rgb
from basicsr_plugins.video.images import encode_png
from basicsr_plugins.video.opening import open_source

KINDS = ('checkpoint', 'clip', 'film', 'interrupted run', 'clip store', 'export')


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


def finish_soon(work: Callable[[], object], folder: Path) -> tuple[int, str]:
    """Exit code and error messages of a process that has little time."""

    def work_in_time() -> None:
        signal.alarm(SECONDS)
        work()

    return finish(start(work_in_time, folder), folder)


def upscale(kind: str, folder: Path, *options: str) -> tuple[int, str, Path]:
    """Upscale what is in a folder; exit code, error messages and the output."""
    source = folder / ('film.mp4' if kind == 'film' else 'frames')
    output = folder / ('out.mp4' if kind == 'interrupted run' else 'out')
    checkpoint = folder / ('export' if kind == 'export' else 'net.pth')
    if kind == 'interrupted run':
        options = (*options, '--segment', '3')
    return *finish_soon(upscaling(source, output, *options, checkpoint=checkpoint), folder), output


def make_all(folder: Path) -> None:
    """A film, its frames, a checkpoint, the network exported, and clip stores of all layouts."""
    make_inputs(folder, 12)
    shutil.copytree(folder / 'frames', folder / 'clips' / 'a')

    def work() -> None:
        write_export(load_network(folder / 'net.pth', NETWORK, 'cpu'), folder / 'export')
        for layout in LAYOUTS:
            pack(['folder', 'clips', f'{layout}.lmdb', '--layout', layout, '--num-worker', '0'])

    code, error = finish(start(work, folder), folder)
    assert code == 0, error


def leave_interrupted(folder: Path) -> None:
    """Kill a run when it has finished some frames."""
    work = upscaling(folder / 'frames', folder / 'out.mp4', '--segment', '3', checkpoint=folder / 'net.pth')
    child = start(work, folder)
    wait_for(folder, '.*.parts/seg_*.json')
    os.kill(child, signal.SIGKILL)
    finish(child, folder)


def upscale_decoded(film: Path, checkpoint: Path, number: int) -> dict[str, bytes]:
    """The first PNGs of a film, of the frames that PyAV decodes without what this package adds to it."""
    frames, colour = [], open_source(film).colour
    with av.open(str(film)) as container:
        container.streams.video[0].thread_type = 'SLICE'  # threads of frames lose those that they hold at an error
        for packet in container.demux(video=0):
            with contextlib.suppress(av.error.FFmpegError):
                frames += [frame_to_rgb(frame, colour) for frame in packet.decode()]
    restored = upscale_frames(load_network(checkpoint, NETWORK, 'cpu', runtime='auto'), frames[:number])
    return {f'{i:08d}.png': encode_png(frame, 8) for i, frame in enumerate(restored)}


def drill_store(folder: Path, rng: random.Random) -> str:
    """Damage a clip store, verify it, and judge: what passes must hold the very frames."""
    store = folder / f'{rng.choice(LAYOUTS)}.lmdb'
    damage(rng.choice(sorted(store.iterdir())), rng)

    def verify(*options: str) -> tuple[int, str]:
        arguments = ['verify', str(store), '--num-worker', '0', *options]
        return finish_soon(lambda: run_script(lambda: pack(arguments)), folder)

    code, error = verify()
    if refuses(code, error):
        return 'refused'
    if code == 0:
        code, error = verify('--source', str(folder / 'clips'))
    if code == 0:
        return 'exact'
    print(error)
    return 'wrong'


def drill(kind: str, inputs: Path, expected: dict, folder: Path, rng: random.Random) -> str:
    """Damage one thing in a copy of the inputs, upscale, and judge."""
    shutil.copytree(inputs, folder)
    if kind == 'clip store':
        return drill_store(folder, rng)
    if kind == 'interrupted run':
        leave_interrupted(folder)
    files = {'checkpoint': 'net.pth', 'film': 'film.mp4', 'clip': 'frames/*', 'export': 'export/*'}
    damaged = [file for file in folder.glob(files.get(kind, '.*.parts/**/*')) if file.is_file()]
    if damaged:
        damage(rng.choice(sorted(damaged)), rng)
    code, error, output = upscale(kind, folder, *(['--resume'] if kind == 'interrupted run' else []))
    if refuses(code, error) and not output.exists():
        return 'refused'
    if code == 0 and contents(output) == expected[kind]:
        return 'exact'
    if code == 0 and kind == 'film':
        left = contents(output)
        if left == upscale_decoded(folder / 'film.mp4', folder / 'net.pth', len(left)):
            ends_early = 'is damaged: its frames end' in error
            return 'ends at the last good frame, with a note' if ends_early else 'decoded alike'
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
        make_all(inputs)
        expected = {}
        for seed in range(args.seed, args.seed + args.count):
            kind = KINDS[seed % len(KINDS)]
            if kind not in expected and kind != 'clip store':
                shutil.copytree(inputs, root / 'expected')
                expected[kind] = contents(upscale(kind, root / 'expected')[2])
                shutil.rmtree(root / 'expected')
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
