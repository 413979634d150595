"""Drill: upscaling that is killed, started twice at once, or runs out of disk; it must end with the exact result.

    python scripts/drills/upscaling.py --kills 20 --twice 10 --full 20 --seed 0

By turns in the modes exact and stream, to PNGs and to a film. A run is killed at a random moment, once or twice, and
resumed. A second run with another network and --force is started at a random moment of the first: it is refused, or the
first has ended. The disk (a small tmpfs; where that cannot be mounted, a limit on the size of a file) is full at a
random point: one sentence and exit code 1, no output, nothing unfinished under its name; with room, --resume ends it.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from disk import small_disk
from films import contents, make_inputs, upscaling
from processes import finish, print_table, refuses, start, wait_for

from basicsr_plugins.errors import run_script

TURNS = [(mode, output) for mode in ('exact', 'stream') for output in ('out', 'out.mp4')]


class Drill:
    """Inputs, the undisturbed outputs and how long they take.

    Args:
        root: An empty folder.
        num_frame: Length of the film.
    """

    def __init__(self, root: Path, num_frame: int):
        self.root = root
        make_inputs(root, num_frame)
        self.expected, self.seconds = {}, {}
        for turn in TURNS:
            folder = self.folder()
            begin = time.monotonic()
            code, error = finish(start(self.work(turn, folder), folder), folder)
            self.seconds[turn] = time.monotonic() - begin
            assert code == 0, error
            self.expected[turn] = contents(folder / turn[1])

    def folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.root))

    def work(self, turn: tuple[str, str], folder: Path, *options: str, other: bool = False) -> Callable[[], object]:
        mode, output = turn
        checkpoint = None if other else self.root / 'net.pth'
        return upscaling(self.root / 'film.mp4', folder / output, '--mode', mode, *options, checkpoint=checkpoint)

    def ends_exactly(self, turn: tuple[str, str], folder: Path, output_folder: Path | None = None) -> bool:
        """Whether --resume ends an interrupted run with the very output, and leaves nothing beside it."""
        where = output_folder or folder
        if not (where / turn[1]).exists():
            code, error = finish(start(self.work(turn, where, '--resume'), folder), folder)
            if code != 0:
                print(error)
        return contents(where / turn[1]) == self.expected[turn] and not list(where.glob('.*.parts'))


def kill(drill: Drill, turn: tuple[str, str], rng: random.Random) -> str:
    """Kill a run once or twice."""
    folder = drill.folder()
    for _ in range(rng.randint(1, 2)):
        child = start(drill.work(turn, folder, '--resume'), folder)
        time.sleep(rng.uniform(0, drill.seconds[turn]))
        os.kill(child, signal.SIGKILL)
        finish(child, folder)
        if (folder / turn[1]).exists():
            break
    return 'exact' if drill.ends_exactly(turn, folder) else 'wrong'


def twice(drill: Drill, turn: tuple[str, str], rng: random.Random) -> str:
    """Start a second run while the first is at work, or about to end."""
    folder, second_folder = drill.folder(), drill.folder()
    first = start(drill.work(turn, folder), folder)
    wait_for(folder, '.*.parts')
    time.sleep(rng.uniform(0, 0.6) * drill.seconds[turn])
    second = start(drill.work(turn, folder, '--force', other=True), second_folder)
    code, error = finish(first, folder)
    second_code, second_error = finish(second, second_folder)
    if code == 0 and refuses(second_code, second_error):
        exact = contents(folder / turn[1]) == drill.expected[turn]
        return 'second refused, first exact' if exact else 'wrong'
    if second_code == 0:  # alone, before the first began or after it had ended
        code, _ = finish(start(drill.work(turn, second_folder, other=True), second_folder), second_folder)
        alone = contents(folder / turn[1]) == contents(second_folder / turn[1])
        return 'one after the other, exact' if alone else 'wrong'
    print(error, second_error)
    return 'wrong'


def full_disk(drill: Drill, turn: tuple[str, str], rng: random.Random) -> str:
    """Let the disk be full at a random point."""
    folder, disk = drill.folder(), drill.folder()
    size = sum(map(len, drill.expected[turn].values()))
    with small_disk(disk, rng.randint(4096, 4 * size)) as enlarge:
        code, error = finish(start(drill.work(turn, disk), folder), folder)
        if code == 0:
            return 'room enough, exact' if contents(disk / turn[1]) == drill.expected[turn] else 'wrong'
        if not refuses(code, error) or (disk / turn[1]).exists() or list(disk.glob('.*.parts/joined*')):
            print(error)
            return 'wrong'
        enlarge()
        return 'refused, then exact' if drill.ends_exactly(turn, folder, disk) else 'wrong'


def main() -> int:
    """Run the drill; 0 if everything ended as it should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, work in (('kills', kill), ('twice', twice), ('full', full_disk)):
        parser.add_argument(f'--{name}', type=int, default=20, help=work.__doc__.rstrip('.'))
    parser.add_argument('--frames', type=int, default=40, help='length of the film')
    parser.add_argument('--seed', type=int, default=0, help='of the random moments')
    args = parser.parse_args()
    torch.set_num_threads(1)
    counts = Counter()
    root = Path(tempfile.mkdtemp())
    try:
        drill = Drill(root, args.frames)
        for number, work in ((args.kills, kill), (args.twice, twice), (args.full, full_disk)):
            for i in range(number):
                turn = TURNS[i % len(TURNS)]
                result = work(drill, turn, random.Random(args.seed + i))
                counts[f'upscaling: {work.__name__}', result] += 1
                if result == 'wrong':
                    print(f'{work.__name__}, number {i}, {turn}: wrong', flush=True)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return print_table(counts)


if __name__ == '__main__':
    run_script(main)
