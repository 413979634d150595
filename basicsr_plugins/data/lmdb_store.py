"""Pack folders of clips into LMDBs of the toolbox's format, and verify them.

An LMDB is a folder `X.lmdb` with `data.mdb`, `lock.mdb` and `meta_info.txt`; a key is `clip/frame` (no suffix), its
value the frame as PNG. The toolbox's `make_lmdb_from_imgs` writes the same, but holds all frames in memory, guesses the
size and has to start anew after an interruption.

Packing goes on in `X.lmdb.partial`, which is renamed when it is whole. BasicSR is not imported: workers start fast.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import lmdb
import numpy as np
from tqdm import tqdm

from basicsr_plugins.data.meta_info import (
    ClipInfo,
    FrameInfo,
    Shape,
    StrPath,
    check_listable,
    clips_from_folder,
    clips_from_lmdb,
    read_lmdb_meta_info,
    write_file,
    write_meta_info,
)
from basicsr_plugins.data.preparation import (
    RECORD,
    cannot_write,
    decode_image,
    default_num_worker,
    describe,
    encode_png,
    in_order,
    read_image,
    recorded,
)
from basicsr_plugins.errors import InputError

INITIAL_MAP_SIZE = 2**28  # doubled whenever it is full
COMMIT_BYTES = 2**23  # what an interruption can cost, and what is held to be written again after the map has grown
MAX_KEY_BYTES = 511
PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by colour type


def pack_lmdb(
    source: StrPath,
    lmdb_path: StrPath,
    compress_level: int = 1,
    num_worker: int | None = None,
    force: bool = False,
    map_size: int = INITIAL_MAP_SIZE,
) -> int:
    """Pack a folder of clips into an LMDB. A run that was interrupted goes on from the frames it had committed.

    Args:
        source: Folder of clips, see `clips_from_folder`.
        lmdb_path: The LMDB to make, `X.lmdb`. One that already holds the same frames is left alone.
        compress_level: PNG compression level, 0 to 9.
        num_worker: Processes that read and encode; 0 does it in this process. Default: one per core.
        force: Rebuild an LMDB that exists; it is replaced when the new one is whole.
        map_size: The database's initial size limit in bytes, which grows as needed.

    Returns:
        The number of frames written by this run.

    Raises:
        InputError: A frame is missing, damaged or of another size than its clip; a name cannot be a key; an LMDB of
            other frames exists; the source or the compression level has changed since the interrupted run; the disk
            is full.
    """
    source, target = Path(source), Path(lmdb_path)
    partial = target.with_name(f'{target.name}.partial')
    if not 0 <= compress_level <= 9:
        raise InputError(f'the compression level is {compress_level}; give 0 to 9')
    if target.suffix != '.lmdb':
        raise InputError(f"{target} must end with '.lmdb'")
    if source.resolve() in target.resolve().parents:
        raise InputError(f'{target} would lie in its own source {source}; give a path outside')
    clips = clips_from_folder(source)
    paths = _frame_paths(source, clips)
    if target.exists() and not force:
        _check_same(target, source, clips, paths, compress_level)
        print(f'{target} is there already, with the {len(paths)} frames of {source}.')
        return 0
    if target.exists() and not (target / 'data.mdb').is_file():
        raise InputError(f'{target} is no LMDB, so it is not replaced; give another name')

    num_worker = default_num_worker() if num_worker is None else num_worker
    try:
        with recorded(partial, describe(source, clips, compress_level=compress_level)):
            num_written = _write_frames(partial, paths, compress_level, num_worker, map_size)
        _rename_whole(partial, target)
    except (lmdb.Error, OSError) as error:
        raise InputError(cannot_write(partial, error)) from error
    print(f'{target} holds {len(paths)} frames, {num_written} written now.')
    return num_written


def verify_lmdb(lmdb_path: StrPath, source: StrPath | None = None, num_worker: int | None = None) -> int:
    """Verify an LMDB: the keys are those of `meta_info.txt`, and every frame decodes and has the shape stated there.

    Args:
        lmdb_path: The LMDB folder.
        source: Folder of clips that the frames must equal, pixel for pixel.
        num_worker: Processes that decode; 0 does it in this process. Default: one per core.

    Returns:
        The number of frames.

    Raises:
        InputError: The first key that is bad, and what is wrong with it.
    """
    frames = read_lmdb_meta_info(lmdb_path)
    paths = {} if source is None else _frame_paths(Path(source), clips_from_folder(source))
    if source is not None:
        _check_keys(lmdb_path, {frame.key for frame in frames}, paths, f'in {source}')
    _check_keys(lmdb_path, _stored_keys(lmdb_path), [frame.key for frame in frames], 'in its meta_info.txt')
    num_worker = default_num_worker() if num_worker is None else num_worker
    _verify_frames(lmdb_path, frames, paths, num_worker)
    print(f'{lmdb_path} is whole: {len(frames)} frames{f" equal those of {source}" if source else ""}.')
    return len(frames)


def pack_folder(
    source: StrPath,
    lmdb_path: StrPath,
    meta_info: StrPath | None = None,
    verify: bool = False,
    num_worker: int | None = None,
    **options,
) -> None:
    """Pack a folder of clips, verify the LMDB if asked, and write a meta info file if asked.

    Args:
        source: Folder of clips.
        lmdb_path: The LMDB to make.
        meta_info: Meta info file to write.
        verify: Compare every frame with its source afterwards.
        num_worker: As in `pack_lmdb`.
        **options: Further arguments of `pack_lmdb`.

    Raises:
        InputError: As `pack_lmdb`, `verify_lmdb` and `write_meta_info`.
    """
    if meta_info is not None:
        check_listable(meta_info, clips_from_folder(source))
    pack_lmdb(source, lmdb_path, num_worker=num_worker, **options)
    if verify:
        verify_lmdb(lmdb_path, source, num_worker)
    if meta_info is not None:
        shapes = {frame.key: frame.shape for frame in read_lmdb_meta_info(lmdb_path)}
        clips = clips_from_lmdb(lmdb_path)
        write_meta_info(meta_info, [(clip, shapes[f'{clip.name}/{clip.frames[0]}']) for clip in clips])
        print(f'{meta_info} lists {len(clips)} clips.')


def pack_reds(root: StrPath, num_clip: int = 270, **options) -> None:
    """Pack REDS, regrouped, under the toolbox's names.

    From `train_sharp` and `train_sharp_bicubic/X4` it makes `train_sharp_with_val.lmdb`,
    `train_sharp_bicubic_with_val.lmdb` and `meta_info_REDS_GT.txt`.

    Args:
        root: The REDS folder.
        num_clip: Number of clips in each folder.
        **options: Arguments of `pack_folder`.

    Raises:
        InputError: Clips or frames are missing or the validation clips are not regrouped; and as `pack_folder`.
    """
    root = Path(root)
    gt, lq = root / 'train_sharp', root / 'train_sharp_bicubic' / 'X4'
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
                'one too many; regroup_reds.py adds the validation clips'
            )
        lengths[folder] = {clip.name: len(clip.frames) for clip in clips}
    for name, num_frame in lengths[gt].items():
        if lengths[lq][name] != num_frame:
            raise InputError(
                f'clip {name} has {num_frame} frames in {gt} and {lengths[lq][name]} in {lq}; restore what is missing'
            )
    pack_folder(gt, root / 'train_sharp_with_val.lmdb', meta_info, **options)
    pack_folder(lq, root / 'train_sharp_bicubic_with_val.lmdb', **options)


def _frame_paths(source: Path, clips: Sequence[ClipInfo]) -> dict[str, Path]:
    """The file of each key, in order."""
    paths = {}
    for clip in clips:
        for frame in clip.frames:
            path = source / clip.name / frame
            key = f'{clip.name}/{path.stem}'
            # the toolbox's readers cut a line of meta_info.txt at the first dot or blank
            if not key.isascii() or not key.isprintable() or ' ' in key or '.' in key:
                raise InputError(f"'{key}' cannot be an LMDB key: ASCII without blanks and dots only; rename {path}")
            if len(key) > MAX_KEY_BYTES:
                raise InputError(
                    f"'{key}' is {len(key)} bytes long, an LMDB key {MAX_KEY_BYTES} at most; rename {path}"
                )
            paths[key] = path
    return paths


def _write_frames(partial, paths, compress_level, num_worker, map_size):
    """Write the frames that are not there yet, and the list of all; returns how many were written."""
    with lmdb.open(str(partial), map_size=map_size) as env:
        shapes = _stored_shapes(env)
        todo = [key for key in paths if key not in shapes]
        if shapes:
            print(f'{partial}: {len(shapes)} of {len(paths)} frames are there already.')
        tasks = ((paths[key], compress_level) for key in todo)
        clip_shapes = {}
        for key in shapes:
            clip_shapes.setdefault(_clip(key), shapes[key])
        batch = {}
        num_byte = 0
        try:
            with closing(in_order(_encode, tasks, num_worker)) as results:
                progress = tqdm(results, partial.stem, initial=len(shapes), total=len(paths), unit='frame')
                for data, key in zip(progress, todo):
                    shapes[key] = _png_shape(data)
                    expected = clip_shapes.setdefault(_clip(key), shapes[key])
                    if shapes[key] != expected:
                        raise InputError(
                            f'{paths[key]} has the shape {shapes[key]}, the frames before it in its clip {expected}; '
                            'restore it'
                        )
                    batch[key] = data
                    num_byte += len(data)
                    if num_byte >= COMMIT_BYTES:
                        _commit(env, batch)
                        batch.clear()
                        num_byte = 0
        finally:  # what is encoded is kept, whatever stopped the rest
            _commit(env, batch)
    lines = [f'{key}.png ({h},{w},{c}) {compress_level}\n' for key, (h, w, c) in ((key, shapes[key]) for key in paths)]
    write_file(partial / 'meta_info.txt', ''.join(lines).encode())
    return len(todo)


def _commit(env, batch):
    """Write a batch in one transaction, again with a larger map whenever the map is full."""
    while True:
        try:
            with env.begin(write=True) as txn:
                for key, data in batch.items():
                    txn.put(key.encode('ascii'), data)
            return
        except lmdb.MapFullError:
            env.set_mapsize(2 * env.info()['map_size'])


def _rename_whole(partial, target):
    """Give a whole LMDB its name; one that is replaced goes only then."""
    old = target.with_name(f'{target.name}.old')
    _sync_folder(partial)
    if target.exists():
        if old.exists():  # of a run that was killed just here
            shutil.rmtree(old)
        target.rename(old)
    partial.rename(target)
    _sync_folder(target.parent)
    (target / RECORD).unlink()
    if old.exists():
        shutil.rmtree(old)


def _sync_folder(folder):
    if os.name == 'posix':  # Windows cannot open folders
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _check_same(target, source, clips, paths, compress_level):
    """Check that an LMDB is what packing `source` would give, by its keys and the first frame of each clip."""
    frames = {frame.key: frame for frame in read_lmdb_meta_info(target)}
    _check_keys(target, set(frames), paths, f'in {source}')
    _check_keys(target, _stored_keys(target), paths, f'in {source}')
    level = next(iter(frames.values())).compress_level
    if level != compress_level:
        raise InputError(_anew(target, f'is there already, with compression level {level}, not {compress_level}'))
    first = [frames[f'{clip.name}/{Path(clip.frames[0]).stem}'] for clip in clips]
    _verify_frames(target, first, paths, num_worker=0)


def _check_keys(lmdb_path, keys, expected, where):
    """`keys` is the set of the LMDB's, `expected` are those that it should have, in order."""
    for key in expected:
        if key not in keys:
            raise InputError(_anew(lmdb_path, f'lacks key {key}, which is {where}'))
    stray = sorted(keys.difference(expected))
    if stray:
        raise InputError(_anew(lmdb_path, f'has {len(stray)} keys that are not {where}, such as {stray[0]}'))


def _verify_frames(lmdb_path, frames: Sequence[FrameInfo], paths, num_worker):
    tasks = ((str(lmdb_path), frame, paths.get(frame.key)) for frame in frames)
    results = in_order(_verify_frame, tasks, num_worker)
    for _ in tqdm(results, f'verify {Path(lmdb_path).name}', total=len(frames), unit='frame'):
        pass


def _verify_frame(lmdb_path, frame, source):
    """Runs in a worker."""
    try:
        with _open_readonly(lmdb_path) as env, env.begin() as txn:
            data = txn.get(frame.key.encode('ascii'))
    except lmdb.Error as error:
        raise InputError(_anew(lmdb_path, f'cannot be read at key {frame.key} ({error})')) from error
    image = decode_image(data)
    if image is None:
        raise InputError(_anew(lmdb_path, f'has a value at key {frame.key} that cannot be decoded'))
    shape = (*image.shape, 1)[:3]
    if shape != frame.shape:
        raise InputError(
            _anew(lmdb_path, f'has an image of shape {shape} at key {frame.key}, not {frame.shape} as stated')
        )
    if source is not None:
        original = read_image(source)
        if image.dtype != original.dtype or not np.array_equal(image, original):
            raise InputError(_anew(lmdb_path, f'has another image at key {frame.key} than {source}'))


def _encode(path, compress_level):
    """Runs in a worker."""
    return encode_png(read_image(path), compress_level)


def _open_readonly(lmdb_path):
    try:
        env = lmdb.open(str(lmdb_path), readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise InputError(_anew(lmdb_path, f'cannot be opened ({error})')) from error
    try:
        check_whole(lmdb_path, env)
    except InputError:
        env.close()
        raise
    return env


def check_whole(lmdb_path: StrPath, env: lmdb.Environment) -> None:
    """Refuse an LMDB whose file is cut short: reading beyond its end would kill the process."""
    num_byte = (env.info()['last_pgno'] + 1) * env.stat()['psize']
    if (Path(lmdb_path) / 'data.mdb').stat().st_size < num_byte:
        raise InputError(_anew(lmdb_path, f'has a data.mdb that is cut short, of less than {num_byte} bytes'))


def _stored_keys(lmdb_path) -> set[str]:
    with _open_readonly(lmdb_path) as env, env.begin() as txn:
        return {key.decode('ascii', 'replace') for key in txn.cursor().iternext(values=False)}


def _stored_shapes(env) -> dict[str, Shape]:
    with env.begin(buffers=True) as txn:
        return {bytes(key).decode('ascii'): _png_shape(value) for key, value in txn.cursor()}


def _png_shape(data) -> Shape:
    """(h, w, c) from the header of a PNG, without decoding it."""
    width, height, _, colour_type = struct.unpack('>IIBB', bytes(data[16:26]))
    return height, width, PNG_CHANNELS[colour_type]


def _clip(key):
    return key.rpartition('/')[0]


def _anew(lmdb_path, problem):
    return f'{lmdb_path} {problem}; pack it under another name, or anew with --force'
