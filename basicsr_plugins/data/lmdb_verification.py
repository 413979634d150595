"""Is an LMDB whole, and is it what packing a source would give?"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from basicsr_plugins.data.frame_formats import stored_layout
from basicsr_plugins.data.frame_sources import (
    FrameSource,
    changed_keys,
    find_clips,
    find_frames,
    read_lmdb_frame,
)
from basicsr_plugins.data.lmdb_reading import closed_afterwards, get_value, stored_keys, unusable
from basicsr_plugins.data.meta_info import FrameInfo, StrPath, read_lmdb_meta_info
from basicsr_plugins.data.preparation import RECORD, default_num_worker, in_order, read_record
from basicsr_plugins.errors import InputError
from basicsr_plugins.files import write_atomically


def verify_lmdb(lmdb_path: StrPath, source: StrPath | None = None, num_worker: int | None = None) -> int:
    """Verify an LMDB: the keys are those of `meta_info.txt`, and every frame decodes and has the shape stated there.

    Args:
        lmdb_path: The LMDB folder, of any layout.
        source: Folder of clips, or LMDB, that the frames must equal, pixel for pixel.
        num_worker: Processes that decode; 0 does it in this process. Default: one per core.

    Returns:
        The number of frames.

    Raises:
        InputError: The first key that is bad, and what is wrong with it.
    """
    num_worker = default_num_worker() if num_worker is None else num_worker
    with closed_afterwards(lmdb_path, *([] if source is None else [source])):
        infos = read_lmdb_meta_info(lmdb_path)
        frames = {} if source is None else find_frames(source, find_clips(source))
        if source is not None:
            _check_keys(lmdb_path, {info.key for info in infos}, frames, f'in {source}')
        _check_keys(lmdb_path, stored_keys(lmdb_path), [info.key for info in infos], 'in its meta_info.txt')
        _verify_frames(lmdb_path, infos, frames, num_worker)
    print(f'{lmdb_path} is whole: {len(infos)} frames{f" equal those of {source}" if source else ""}.')
    return len(infos)


def check_same(lmdb_path: Path, frames: Mapping[str, FrameSource], job: dict, num_worker: int) -> None:
    """Check that an LMDB is what packing `frames` would give.

    The first frame of each clip, and every frame whose source has another size or time of change than when it was
    packed, is compared pixel for pixel; all are where that is not on record. Then it is.

    Args:
        lmdb_path: The LMDB.
        frames: The source of each key.
        job: Their description, with `layout` and `compress_level`.
        num_worker: As in `verify_lmdb`.

    Raises:
        InputError: It is of another layout or compression level, or a frame differs.
    """
    infos = {info.key: info for info in read_lmdb_meta_info(lmdb_path)}
    _check_keys(lmdb_path, set(infos), frames, f'in {job["source"]}')
    _check_keys(lmdb_path, stored_keys(lmdb_path), frames, f'in {job["source"]}')
    first = next(iter(infos.values()))
    layout = stored_layout(get_value(lmdb_path, first.key)[0])
    if layout != job['layout']:
        raise InputError(unusable(lmdb_path, f'is there already, with layout {layout}, not {job["layout"]}'))
    if first.compress_level != job['compress_level']:
        problem = f'is there already, with compression level {first.compress_level}, not {job["compress_level"]}'
        raise InputError(unusable(lmdb_path, problem))
    changed = changed_keys(read_record(lmdb_path), job)
    firsts = {key.rpartition('/')[0]: key for key in reversed(frames)}.values()
    wanted = changed.union(firsts)
    _verify_frames(lmdb_path, [infos[key] for key in frames if key in wanted], frames, num_worker)
    if changed:
        with contextlib.suppress(OSError):  # where it cannot be noted, it is compared again the next time
            write_atomically(lmdb_path / RECORD, json.dumps(job))


def _check_keys(lmdb_path: StrPath, keys: Collection[str], expected: Iterable[str], where: str) -> None:
    """`keys` is the set of the LMDB's, `expected` are those that it should have, in order."""
    for key in expected:
        if key not in keys:
            raise InputError(unusable(lmdb_path, f'lacks key {key}, which is {where}'))
    stray = sorted(set(keys).difference(expected))
    if stray:
        raise InputError(unusable(lmdb_path, f'has {len(stray)} keys that are not {where}, such as {stray[0]}'))


def _verify_frames(
    lmdb_path: StrPath, infos: Collection[FrameInfo], frames: Mapping[str, FrameSource], num_worker: int
) -> None:
    tasks = ((str(lmdb_path), info, frames.get(info.key)) for info in infos)
    results = in_order(_verify_frame, tasks, num_worker)
    for _ in tqdm(results, f'verify {Path(lmdb_path).name}', total=len(infos), unit='frame'):
        pass


def _verify_frame(lmdb_path: str, info: FrameInfo, source: FrameSource | None) -> None:
    """Runs in a worker."""
    image = read_lmdb_frame(lmdb_path, info.key)
    shape = (*image.shape, 1)[:3]
    if shape != info.shape:
        raise InputError(
            unusable(lmdb_path, f'has an image of shape {shape} at key {info.key}, not {info.shape} as stated')
        )
    if source is not None:
        original = source.read()
        if image.dtype != original.dtype or not np.array_equal(image, original):
            raise InputError(unusable(lmdb_path, f'has another image at key {info.key} than {source}'))
