"""Pack clips into LMDBs: of the toolbox's format, or of layouts from which a patch is read without decoding frames.

An LMDB is a folder `X.lmdb` with `data.mdb`, `lock.mdb` and `meta_info.txt`; a key is `clip/frame` (no suffix), its
value the frame, as PNG or as `frame_formats` says. The toolbox's `make_lmdb_from_imgs` writes the same PNGs, but holds
all frames in memory, guesses the size and has to start anew after an interruption. A hidden file records the sources.

Packing goes on in `X.lmdb.partial`, which is renamed when it is whole. BasicSR is not imported: workers start fast.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import lmdb
from tqdm import tqdm

from basicsr_plugins.data.frame_formats import LAYOUTS, ZSTD_LEVEL, encode_image, stored_shape
from basicsr_plugins.data.frame_sources import FrameSource, describe_source, find_clips, find_frames, is_lmdb
from basicsr_plugins.data.lmdb_reading import closed_afterwards
from basicsr_plugins.data.lmdb_verification import check_same, verify_lmdb
from basicsr_plugins.data.meta_info import (
    Shape,
    StrPath,
    check_listable,
    clips_from_folder,
    clips_from_lmdb,
    read_lmdb_meta_info,
    write_meta_info,
)
from basicsr_plugins.data.preparation import LOCK, cannot_write, default_num_worker, in_order, recorded
from basicsr_plugins.errors import InputError, one_line, suggest
from basicsr_plugins.files import disk_error, write_atomically

INITIAL_MAP_SIZE = 2**28  # doubled whenever it is full
COMMIT_BYTES = 2**23  # what an interruption can cost, and what is held to be written again after the map has grown
LEAST_ROOM = 2**16  # bytes on the disk
PNG_LEVEL = 1  # as the toolbox


def pack_lmdb(
    source: StrPath,
    lmdb_path: StrPath,
    compress_level: int | None = None,
    num_worker: int | None = None,
    force: bool = False,
    map_size: int = INITIAL_MAP_SIZE,
    layout: str = 'png',
) -> int:
    """Pack clips into an LMDB. A run that was interrupted goes on from the frames it had committed.

    Args:
        source: Folder of clips, see `clips_from_folder`; or an LMDB of any layout, to convert it.
        lmdb_path: The LMDB to make, `X.lmdb`. One that already holds the same frames is left alone.
        compress_level: PNG compression level, 0 to 9; default: 1. The other layouts have none.
        num_worker: Processes that read and encode; 0 does it in this process. Default: one per core.
        force: Rebuild an LMDB that exists; it is replaced when the new one is whole. What an interrupted run of other
            input has left is thrown away.
        map_size: The database's initial size limit in bytes, which grows as needed.
        layout: `png` (the toolbox's), `raw` or `tiles`, see `frame_formats`.

    Returns:
        The number of frames written by this run.

    Raises:
        InputError: A frame is missing, damaged or of another size than its clip; a name cannot be a key; an LMDB of
            other frames exists; the source or a setting has changed since the interrupted run; the disk is full.
    """
    source, target = Path(source), Path(lmdb_path)
    partial = target.with_name(f'{target.name}.partial')
    level = _check_settings(layout, compress_level)
    if target.suffix != '.lmdb':
        raise InputError(f"{target} must end with '.lmdb'.")
    if source.resolve() in (target.resolve(), *target.resolve().parents):
        raise InputError(f'{target} would lie in its own source {source}; give a path outside.')
    num_worker = default_num_worker() if num_worker is None else num_worker
    clips = find_clips(source)
    frames = find_frames(source, clips)
    job = describe_source(source, clips, layout=layout, compress_level=level)
    if target.exists() and not force:
        with closed_afterwards(target, source):
            check_same(target, frames, job, num_worker)
        print(f'{target} is there already, with the {len(frames)} frames of {source}.')
        return 0
    if target.exists() and not is_lmdb(target):
        raise InputError(f'{target} is no LMDB, so it is not replaced; give another name.')

    try:
        with recorded(partial, job, start_anew=force), closed_afterwards(source):
            num_written = _write_frames(partial, frames, layout, level, num_worker, map_size)
            _rename_whole(partial, target)
    except (lmdb.Error, OSError) as error:
        raise InputError(cannot_write(partial, error)) from error
    print(f'{target} holds {len(frames)} frames, {num_written} written now.')
    return num_written


def pack_folder(
    source: StrPath,
    lmdb_path: StrPath,
    meta_info: StrPath | None = None,
    verify: bool = False,
    num_worker: int | None = None,
    **options,
) -> None:
    """Pack clips, verify the LMDB if asked, and write a meta info file if asked.

    Args:
        source: Folder of clips, or an LMDB.
        lmdb_path: The LMDB to make.
        meta_info: Meta info file to write.
        verify: Compare every frame with its source afterwards.
        num_worker: As in `pack_lmdb`.
        **options: Further arguments of `pack_lmdb`.

    Raises:
        InputError: As `pack_lmdb`, `verify_lmdb` and `write_meta_info`.
    """
    if meta_info is not None:
        check_listable(meta_info, find_clips(source))
    pack_lmdb(source, lmdb_path, num_worker=num_worker, **options)
    if verify:
        verify_lmdb(lmdb_path, source, num_worker)
    if meta_info is not None:
        shapes = {frame.key: frame.shape for frame in read_lmdb_meta_info(lmdb_path)}
        clips = clips_from_lmdb(lmdb_path)
        write_meta_info(meta_info, [(clip, shapes[f'{clip.name}/{clip.frames[0]}']) for clip in clips])
        print(f'{meta_info} lists {len(clips)} clips.')


def pack_reds(root: StrPath, num_clip: int = 270, scale: int = 4, **options) -> None:
    """Pack REDS, regrouped, under the toolbox's names.

    From `train_sharp` and `train_sharp_bicubic/X4` it makes `train_sharp_with_val.lmdb`,
    `train_sharp_bicubic_with_val.lmdb` and `meta_info_REDS_GT.txt`; of another scale, for which the toolbox has no
    name, `train_sharp_bicubic_X2_with_val.lmdb`.

    Args:
        root: The REDS folder.
        num_clip: Number of clips in each folder.
        scale: Of the LR clips, which REDS has for 4 and `make_bicubic_lr` makes.
        **options: Arguments of `pack_folder`.

    Raises:
        InputError: Clips or frames are missing or the validation clips are not regrouped; and as `pack_folder`.
    """
    root = Path(root)
    gt, lq = root / 'train_sharp', root / 'train_sharp_bicubic' / f'X{scale}'
    meta_info = root / 'meta_info_REDS_GT.txt'
    lengths = {}
    for folder in (gt, lq):
        clips = clips_from_folder(folder)
        check_listable(meta_info, clips)
        names = [clip.name for clip in clips]
        missing = sorted({f'{i:03d}' for i in range(num_clip)}.symmetric_difference(names))
        if missing:
            raise InputError(
                f'{folder} should hold the {num_clip} clips 000 to {num_clip - 1:03d}, but {missing[0]} is missing or '
                'one too many; regroup-reds adds the validation clips.'
            )
        lengths[folder] = {clip.name: len(clip.frames) for clip in clips}
    for name, num_frame in lengths[gt].items():
        if lengths[lq][name] != num_frame:
            raise InputError(
                f'clip {name} has {num_frame} frames in {gt} and {lengths[lq][name]} in {lq}; restore what is missing.'
            )
    pack_folder(gt, root / 'train_sharp_with_val.lmdb', meta_info, **options)
    name = 'train_sharp_bicubic' if scale == 4 else f'train_sharp_bicubic_X{scale}'
    pack_folder(lq, root / f'{name}_with_val.lmdb', **options)


def _check_settings(layout: str, compress_level: int | None) -> int:
    """The level that meta_info.txt states."""
    if layout not in LAYOUTS:
        raise InputError(f'there is no layout {layout!r}; {suggest(layout, LAYOUTS)}')
    if layout == 'png':
        level = PNG_LEVEL if compress_level is None else compress_level
        if not 0 <= level <= 9:
            raise InputError(f'the compression level is {level}; give 0 to 9.')
        return level
    if compress_level is not None:
        raise InputError(f'the layout {layout} has no compression level; leave it out.')
    return {'raw': 0, 'tiles': ZSTD_LEVEL}[layout]


def _write_frames(
    partial: Path, frames: Mapping[str, FrameSource], layout: str, level: int, num_worker: int, map_size: int
) -> int:
    """Write the frames that are not there yet, and the list of all; returns how many were written."""
    if shutil.disk_usage(partial.parent).free < LEAST_ROOM:  # LMDB maps its first pages: on a full disk it dies of it
        raise InputError(disk_error(partial, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), LEAST_ROOM) + '.')
    with lmdb.open(str(partial), map_size=map_size) as env:
        shapes = _stored_shapes(env, partial)
        todo = [key for key in frames if key not in shapes]
        if shapes:
            print(f'{partial}: {len(shapes)} of {len(frames)} frames are there already.')
        tasks = ((frames[key], layout, level) for key in todo)
        clip_shapes = {}
        for key in shapes:
            clip_shapes.setdefault(_clip(key), shapes[key])
        batch = {}
        num_byte = 0
        try:
            with closing(in_order(_encode, tasks, num_worker)) as results:
                progress = tqdm(results, partial.stem, initial=len(shapes), total=len(frames), unit='frame')
                for data, key in zip(progress, todo):
                    shapes[key] = stored_shape(data, key)
                    expected = clip_shapes.setdefault(_clip(key), shapes[key])
                    if shapes[key] != expected:
                        raise InputError(
                            f'{frames[key]} has the shape {shapes[key]}, the frames before it in its clip {expected}; '
                            'restore it.'
                        )
                    batch[key] = data
                    num_byte += len(data)
                    if num_byte >= COMMIT_BYTES:
                        _commit(env, batch)
                        batch.clear()
                        num_byte = 0
        finally:  # what is encoded is kept, whatever stopped the rest
            _commit(env, batch)
    lines = [f'{key}.png ({h},{w},{c}) {level}\n' for key, (h, w, c) in ((key, shapes[key]) for key in frames)]
    write_atomically(partial / 'meta_info.txt', ''.join(lines))
    return len(todo)


def _commit(env: lmdb.Environment, batch: Mapping[str, bytes]) -> None:
    """Write a batch in one transaction, again with a larger map whenever the map is full."""
    while True:
        try:
            with env.begin(write=True) as txn:
                for key, data in batch.items():
                    txn.put(key.encode('ascii'), data)
            return
        except lmdb.MapFullError:
            env.set_mapsize(2 * env.info()['map_size'])


def _rename_whole(partial: Path, target: Path) -> None:
    """Give a whole LMDB its name; one that is replaced goes only then."""
    old = target.with_name(f'{target.name}.old')
    _sync_folder(partial)
    if target.exists():
        if old.exists():  # of a run that was killed just here
            shutil.rmtree(old)
        target.rename(old)
    partial.rename(target)
    (target / LOCK).unlink()
    _sync_folder(target.parent)
    if old.exists():
        shutil.rmtree(old)


def _sync_folder(folder: Path) -> None:
    if os.name == 'posix':  # Windows cannot open folders
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _encode(frame: FrameSource, layout: str, level: int) -> bytes:
    """Runs in a worker."""
    return encode_image(frame.read(), layout, level, str(frame))


def _stored_shapes(env: lmdb.Environment, partial: Path) -> dict[str, Shape]:
    try:
        with env.begin(buffers=True) as txn:
            entries = ((bytes(key).decode('ascii'), value) for key, value in txn.cursor())
            return {key: stored_shape(value, key) for key, value in entries}
    except (lmdb.Error, InputError) as error:
        raise InputError(f'{partial} is damaged ({one_line(error).rstrip(".")}); remove it, and run again.') from error


def _clip(key: str) -> str:
    return key.rpartition('/')[0]
