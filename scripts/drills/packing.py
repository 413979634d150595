"""Drill: packing of LMDBs that is killed, started twice at once, or runs out of disk.

    python scripts/drills/packing.py --kills 10 --twice 6 --full 6 --seed 0

By turns in the layouts png, raw and tiles. It must end with every key and value of an undisturbed run's LMDB, which
--verify compares with the sources, and with nothing beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lmdb
from jobs import Job, make_clips, run_drill

from basicsr_plugins.commands.lmdb import main as pack
from basicsr_plugins.data import lmdb_store
from basicsr_plugins.data.frame_formats import LAYOUTS
from basicsr_plugins.errors import run_script

NUM_FRAME = 400  # of a clip


def packing(source: Path, layout: str) -> Callable[[], object]:
    """The command as a process's work, with many commits for few frames."""

    def run() -> None:
        lmdb_store.COMMIT_BYTES = 2**15
        arguments = [str(source), 'clips.lmdb', '--layout', layout, '--num-worker', '1', '--verify']
        run_script(lambda: pack(['folder', *arguments]))

    return run


def packed(folder: Path) -> dict[str, bytes | int] | None:
    """Keys and values of the LMDB, its list of frames, and how much stands beside it."""
    path = folder / 'clips.lmdb'
    if not path.exists():
        return None
    with lmdb.open(str(path), readonly=True, lock=False) as env, env.begin() as txn:
        values = {key.decode(): value for key, value in txn.cursor()}
    return {**values, 'list': (path / 'meta_info.txt').read_bytes(), 'beside it': len(list(folder.iterdir())) - 1}


def make_jobs(root: Path) -> dict[str, Job]:
    make_clips(root, NUM_FRAME)
    return {layout: Job(root, packing(root / 'GT', layout), packed) for layout in LAYOUTS}


def main() -> int:
    """Run the drill; 0 if everything ended as it should."""
    return run_drill('packing', __doc__, make_jobs)


if __name__ == '__main__':
    run_script(main)
