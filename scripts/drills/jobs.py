"""Jobs that go on when they are started again: killed, started twice at once, or out of disk, they end exactly."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from disk import small_disk
from processes import finish, print_table, refuses, start


def make_clips(root: Path, num_frame: int) -> None:
    """Two clips, in `GT` of 48x64 and in `BIx4` of 12x16: a smooth texture that moves."""
    rng = np.random.default_rng(0)
    for clip in ('a', 'b'):
        texture = cv2.GaussianBlur(rng.uniform(0, 255, (48, 64, 3)), (0, 0), 2)
        texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
        for i in range(num_frame):
            gt = np.roll(texture, (i, 2 * i), (0, 1))
            for kind, image in (('GT', gt), ('BIx4', cv2.resize(gt, (16, 12), interpolation=cv2.INTER_AREA))):
                (root / kind / clip).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(root / kind / clip / f'{i:08d}.png'), image)


class Job:
    """A command on small inputs, and what it leaves where nothing disturbs it.

    Args:
        root: Folder of the folders it runs in, `runs`.
        run: Does the work in a folder, the current one; started there again, it goes on where it was.
        left: What it has left in a folder, to be compared; None where that is nothing.
    """

    def __init__(self, root: Path, run: Callable[[], object], left: Callable[[Path], object]):
        self.runs, self.run, self.left = root / 'runs', run, left

    def folder(self) -> Path:
        self.runs.mkdir(exist_ok=True)
        return Path(tempfile.mkdtemp(dir=self.runs))

    def start(self, folder: Path, logs: Path) -> int:
        """Start it in a folder, with its messages in another one; the process id."""

        def work() -> None:
            os.chdir(folder)
            self.run()

        return start(work, logs)

    @cached_property
    def undisturbed(self) -> tuple[object, float, int]:
        """What it leaves, how many seconds it takes, and how many bytes are then in its folder."""
        folder, logs = self.folder(), self.folder()
        begin = time.monotonic()
        code, error = finish(self.start(folder, logs), logs)
        seconds = time.monotonic() - begin
        assert code == 0, error
        size = sum(path.stat().st_size for path in folder.rglob('*') if path.is_file())
        return self.left(folder), seconds, size

    def ends_exactly(self, folder: Path) -> bool:
        """Whether it goes on to its end in a folder, with the very result."""
        logs = self.folder()
        code, error = finish(self.start(folder, logs), logs)
        if code == 0 and self.left(folder) == self.undisturbed[0]:
            return True
        print(error)
        return False


def kill(job: Job, rng: random.Random) -> str:
    """Kill a run once or twice."""
    folder, logs = job.folder(), job.folder()
    for _ in range(rng.randint(1, 2)):
        seconds = rng.uniform(0, job.undisturbed[1])
        child = job.start(folder, logs)
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        finish(child, logs)
    return 'exact' if job.ends_exactly(folder) else 'wrong'


def twice(job: Job, rng: random.Random) -> str:
    """Start a second run while the first may be at work."""
    folder, logs = job.folder(), [job.folder(), job.folder()]
    seconds = rng.uniform(0, 0.9) * job.undisturbed[1]
    first = job.start(folder, logs[0])
    time.sleep(seconds)
    children = [first, job.start(folder, logs[1])]
    ends = [finish(child, log) for child, log in zip(children, logs)]
    exact = job.left(folder) == job.undisturbed[0]
    if exact and [code for code, _ in ends] == [0, 0]:
        return 'both exact'
    if exact and sorted(code for code, _ in ends) == [0, 1] and any(refuses(*end) for end in ends):
        return 'one refused, the other exact'
    print(*(error for _, error in ends), sep='\n')
    return 'wrong'


def full_disk(job: Job, rng: random.Random) -> str:
    """Let the disk be full at a random point."""
    disk, logs = job.folder(), job.folder()
    with small_disk(disk, rng.randint(4096, job.undisturbed[2] * 5 // 4)) as enlarge:
        code, error = finish(job.start(disk, logs), logs)
        if code == 0:
            return 'room enough, exact' if job.left(disk) == job.undisturbed[0] else 'wrong'
        if not refuses(code, error):
            print(error)
            return 'wrong'
        enlarge()
        return 'refused, then exact' if job.ends_exactly(disk) else 'wrong'


def run_drill(what: str, description: str, make_jobs: Callable[[Path], Mapping[str, Job]]) -> int:
    """Disturb jobs by turns, as the command line says, and print a table of how they ended.

    Args:
        what: What the table calls them.
        description: Of the command, for its help.
        make_jobs: Makes the jobs of all turns in an empty folder.

    Returns:
        0 if everything ended as it should, else 1.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    disturbances = {'kills': kill, 'twice': twice, 'full': full_disk}
    for name, disturb in disturbances.items():
        parser.add_argument(f'--{name}', type=int, default=10, help=disturb.__doc__.rstrip('.'))
    parser.add_argument('--seed', type=int, default=0, help='of the random moments')
    args = parser.parse_args()
    counts = Counter()
    root = Path(tempfile.mkdtemp())
    try:
        jobs = list(make_jobs(root).items())
        for name, disturb in disturbances.items():
            for i in range(getattr(args, name)):
                turn, job = jobs[i % len(jobs)]
                result = disturb(job, random.Random(args.seed + i))
                counts[f'{what}, {turn}: {disturb.__name__}', result] += 1
                if result == 'wrong':
                    print(f'{disturb.__name__}, number {i}, {turn}: wrong', flush=True)
                shutil.rmtree(root / 'runs', ignore_errors=True)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return print_table(counts)
