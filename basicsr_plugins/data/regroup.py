"""The usual regrouping of REDS: its validation clips 000 to 029 join the training clips as 240 to 269."""

from __future__ import annotations

import errno
import filecmp
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from tqdm import tqdm

from basicsr_plugins.data.meta_info import ClipInfo, StrPath, clips_from_folder
from basicsr_plugins.data.preparation import cannot_write
from basicsr_plugins.errors import InputError


def regroup_reds(
    train: StrPath,
    val: StrPath,
    link: bool = False,
    num_train_clip: int = 240,
    num_val_clip: int = 30,
    num_frame: int = 100,
) -> int:
    """Add REDS's validation clips to its training folder. Clips that a former run added are left alone.

    Args:
        train: Folder of the training clips 000 to 239.
        val: Folder of the validation clips 000 to 029, which become 240 to 269.
        link: Make hard links, which take no room, instead of copies.
        num_train_clip: Number of training clips.
        num_val_clip: Number of validation clips.
        num_frame: Number of frames of each clip.

    Returns:
        The number of clips added by this run.

    Raises:
        InputError: Clips or frames are missing or too many; a clip that is not a copy has the name that one would
            get; the disk is full or cannot hold links.
    """
    train, val = Path(train), Path(val)
    names = {f'{i:03d}': f'{i + num_train_clip:03d}' for i in range(num_val_clip)}
    train_clips = {clip.name: clip for clip in clips_from_folder(train)}
    val_clips = {clip.name: clip for clip in clips_from_folder(val)}
    added = {new for new in names.values() if new in train_clips}
    _check_clips(val, val_clips, names, num_frame)
    _check_clips(train, train_clips, {*(f'{i:03d}' for i in range(num_train_clip)), *added}, num_frame)
    for name, new in names.items():
        if new in added:
            _check_copy(val / name, train / new, val_clips[name])
    todo = {name: new for name, new in names.items() if new not in added}
    for name, new in tqdm(todo.items(), train.name, unit='clip'):
        _add_clip(val / name, train / new, val_clips[name], link)
    print(f'{train} holds {num_train_clip + num_val_clip} clips, {len(todo)} added now.')
    return len(todo)


def _check_clips(folder: Path, clips: Mapping[str, ClipInfo], expected: Collection[str], num_frame: int) -> None:
    for name in sorted({*clips}.symmetric_difference(expected)):
        problem = 'is missing' if name in expected else 'does not belong there'
        raise InputError(
            f'clip {name} {problem} in {folder}, which should hold {len(expected)} clips; correct that first.'
        )
    for name, clip in clips.items():
        if len(clip.frames) != num_frame:
            raise InputError(f'clip {name} in {folder} has {len(clip.frames)} frames, not {num_frame}; restore it.')


def _check_copy(source: Path, target: Path, clip: ClipInfo) -> None:
    """Same names, and same bytes; a copy keeps size and time of change, which spares most of the reading."""
    for frame in clip.frames:
        if not (target / frame).is_file() or not filecmp.cmp(source / frame, target / frame):
            raise InputError(f'{target} is there already and {frame} is not that of {source}; move it away.')


def _add_clip(source: Path, target: Path, clip: ClipInfo, link: bool) -> None:
    """Under a hidden name until it is whole."""
    temporary = target.with_name(f'.{target.name}.partial')
    put = os.link if link else shutil.copy2
    try:
        if temporary.exists():
            shutil.rmtree(temporary)
        temporary.mkdir()
        for frame in clip.frames:
            put(source / frame, temporary / frame)
        temporary.rename(target)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise InputError(
                f'{target} cannot be a link, on another disk than {source}; copy instead of linking.'
            ) from error
        raise InputError(cannot_write(target, error)) from error
