"""What the data preparation jobs share: reading an image, work in several processes, and noticing a changed job.

Nothing here imports BasicSR or torch, so that a worker process starts in a fraction of a second.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Callable

import cv2
import numpy as np

from basicsr_plugins.data.meta_info import ClipInfo, StrPath
from basicsr_plugins.errors import InputError
from basicsr_plugins.files import is_cut_short, lock_file, write_atomically

RECORD = '.job.json'
LOCK = '.lock'


def read_image(path: StrPath) -> np.ndarray:
    """Read an image as it is stored, as the toolbox's LMDB maker does: (h, w) or (h, w, c), BGR, 8 or 16 bits.

    Raises:
        InputError: The file is missing, cannot be decoded, is cut short, or is not an image of integers.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f'{path} cannot be read: {error.strerror}.') from error
    image = decode_image(data)
    if image is None:
        raise InputError(f'{path} cannot be decoded; restore this frame.')
    if image.dtype not in (np.uint8, np.uint16):
        raise InputError(f'{path} holds {image.dtype} values, and PNG only integers of 8 or 16 bits; convert it first.')
    return image


def decode_image(data: bytes) -> np.ndarray | None:
    """Decode an image; None where it is damaged."""
    if not data or is_cut_short(data):
        return None
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def encode_png(image: np.ndarray, compress_level: int = 1) -> bytes:
    """Encode as the toolbox does."""
    return cv2.imencode('.png', image, [cv2.IMWRITE_PNG_COMPRESSION, compress_level])[1].tobytes()


def in_order(
    function: Callable[..., Any], tasks: Iterable[tuple], num_worker: int, preload: Sequence[str] = ()
) -> Iterator[Any]:
    """Yield `function(*task)` for each task, in order, computed in several processes.

    A few tasks per worker are under way at a time, so memory is bounded however many tasks there are. The first error
    in the order of tasks is raised. Workers end with the process that started them, even where that one is killed.

    Args:
        function: A function at the top level of a module.
        tasks: Arguments of each call.
        num_worker: Number of processes; 0 computes in this process.
        preload: Modules that take long to import, for all workers at once.

    Raises:
        InputError: `num_worker` is negative, or a worker died.
    """
    if num_worker < 0:
        raise InputError(f'the number of workers is {num_worker}; give 0 or more.')
    if num_worker == 0:
        for task in tasks:
            yield function(*task)
        return

    # never `fork`: it would copy locks that other threads of this process hold, and LMDB environments do not survive it
    context = multiprocessing.get_context('forkserver' if sys.platform == 'linux' else 'spawn')
    if preload:
        context.set_forkserver_preload(['__main__', *preload])
    executor = ProcessPoolExecutor(num_worker, mp_context=context, initializer=_start_worker)
    try:
        tasks = iter(tasks)
        pending = deque(executor.submit(function, *task) for task in islice(tasks, 4 * num_worker))
        while pending:
            result = pending.popleft().result()
            pending.extend(executor.submit(function, *task) for task in islice(tasks, 1))
            yield result
    except BrokenProcessPool as error:
        raise InputError(
            'a worker process died: no memory left, a damaged file, or a main script that cannot be imported; '
            'run again with fewer workers, 0 for none.'
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def describe(source: StrPath, clips: Sequence[ClipInfo], **settings) -> dict:
    """What a job depends on: the settings, the source folder, and each frame's size and time of change."""
    root = Path(source).resolve()
    paths = [f'{clip.name}/{frame}' for clip in clips for frame in clip.frames]
    stats = [(root / path).stat() for path in paths]
    frames = {path: [stat.st_size, stat.st_mtime_ns] for path, stat in zip(paths, stats)}
    return {**settings, 'source': str(root), 'frames': frames}


@contextmanager
def recorded(folder: StrPath, job: dict, start_anew: bool = False) -> Iterator[None]:
    """Hold the output folder of a job for the time of the work, with a record of the job in it.

    The first run makes the folder; a later one goes on only if the job is still the same.

    Args:
        folder: The job's output folder.
        job: What `describe` returned.
        start_anew: Throw away what a run of another job has left in the folder.

    Raises:
        InputError: The folder is of another job, or another process is at work on it.
    """
    folder = Path(folder)
    is_new = not (folder / RECORD).exists()
    folder.mkdir(parents=True, exist_ok=True)
    if is_new and any(not path.name.startswith('.') for path in folder.iterdir()):
        raise InputError(f'{folder} holds files of something else; give another name or remove it.')
    with lock_file(folder / LOCK, str(folder)):
        difference = None if is_new else _difference(read_record(folder), job)
        if difference and not start_anew:
            raise InputError(f'{folder} was begun with other input ({difference}); give another name or remove it.')
        if difference:
            for path in folder.iterdir():
                if path.name != LOCK:
                    path.unlink()
        if difference or is_new:
            write_atomically(folder / RECORD, json.dumps(job))
        yield


def read_record(folder: StrPath) -> dict | None:
    """The record of a job in its output folder; None where there is none, or none that can be read."""
    try:
        record = json.loads((Path(folder) / RECORD).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get('frames'), dict) else None


def cannot_write(path: Path, error: Exception) -> str:
    """The sentence for an error in writing; it states the room left, for LMDB calls a full disk an I/O error."""
    folder = next(parent for parent in path.resolve().parents if parent.exists())
    free = shutil.disk_usage(folder).free / 2**20
    return (
        f'{path} cannot be written ({error}; {free:.0f} MiB are free); make room or remove the cause, '
        'and run again to resume.'
    )


def default_num_worker() -> int:
    """One process per core, 16 at most."""
    return min(os.cpu_count() or 1, 16)


def _difference(before: dict | None, now: dict) -> str | None:
    if before is None:
        return 'its record is damaged'
    for key in now:
        if key != 'frames' and before.get(key) != now[key]:
            return f'{key} was {before.get(key)}, is {now[key]}'
    for frame in sorted({*before['frames'], *now['frames']}):
        if frame not in before['frames'] or frame not in now['frames']:
            return f'frame {frame} was {"removed" if frame in before["frames"] else "added"} since'
        if before['frames'][frame] != now['frames'][frame]:
            return f'frame {frame} has changed since'
    return None


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, use one core, and end when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    end_with_parent()


def end_with_parent() -> None:
    """In a process of a pool: end when the one that started it does, be it by a kill; the pool's pipes do not say."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
