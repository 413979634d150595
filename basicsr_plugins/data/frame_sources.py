"""The frames that an LMDB is packed from: files in folders, or the entries of another LMDB."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Union

import numpy as np

from basicsr_plugins.data.frame_formats import decode_value
from basicsr_plugins.data.lmdb_reading import get_value, unusable
from basicsr_plugins.data.meta_info import ClipInfo, StrPath, clips_from_folder, clips_from_lmdb
from basicsr_plugins.data.preparation import describe, read_image
from basicsr_plugins.errors import InputError

MAX_KEY_BYTES = 511


class FrameFile(NamedTuple):
    """An image file."""

    path: Path

    def read(self) -> np.ndarray:
        """The image as it is stored, (h, w) or (h, w, c), BGR, 8 or 16 bits."""
        return read_image(self.path)

    def __str__(self) -> str:
        return str(self.path)


class LmdbFrame(NamedTuple):
    """An entry of an LMDB."""

    lmdb_path: str
    key: str

    def read(self) -> np.ndarray:
        """The image as it is stored, (h, w) or (h, w, c), BGR, 8 or 16 bits."""
        return read_lmdb_frame(self.lmdb_path, self.key)

    def __str__(self) -> str:
        return f'{self.key} of {self.lmdb_path}'


FrameSource = Union[FrameFile, LmdbFrame]


def read_lmdb_frame(lmdb_path: StrPath, key: str) -> np.ndarray:
    """The image of a key as it was packed, (h, w) or (h, w, c), BGR, 8 or 16 bits.

    Raises:
        InputError: There is no such key, or its value is damaged or of another version.
    """
    value, _owner = get_value(lmdb_path, key)
    if value is None:
        raise InputError(unusable(lmdb_path, f'lacks key {key}'))
    image = decode_value(value, f'{key} of {lmdb_path}')
    if image is None:
        raise InputError(unusable(lmdb_path, f'has a value at key {key} that cannot be decoded'))
    return image


def is_lmdb(path: StrPath) -> bool:
    """Whether a folder is an LMDB."""
    return (Path(path) / 'data.mdb').is_file()


def find_clips(source: StrPath) -> list[ClipInfo]:
    """The clips of a folder or an LMDB, see `clips_from_folder` and `clips_from_lmdb`."""
    return clips_from_lmdb(source) if is_lmdb(source) else clips_from_folder(source)


def find_frames(source: StrPath, clips: Sequence[ClipInfo]) -> dict[str, FrameSource]:
    """The source of each key, in order.

    Raises:
        InputError: A name cannot be a key.
    """
    keys = (f'{clip.name}/{frame}' for clip in clips for frame in clip.frames)
    if is_lmdb(source):
        return {key: LmdbFrame(str(source), key) for key in keys}
    frames = {}
    for name in keys:
        path = Path(source) / name
        key = os.path.splitext(name)[0]
        # the toolbox's readers cut a line of meta_info.txt at the first dot or blank
        if not key.isascii() or not key.isprintable() or ' ' in key or '.' in key:
            raise InputError(f"'{key}' cannot be an LMDB key: ASCII without blanks and dots only; rename {path}.")
        if len(key) > MAX_KEY_BYTES:
            raise InputError(f"'{key}' is {len(key)} bytes long, an LMDB key {MAX_KEY_BYTES} at most; rename {path}.")
        frames[key] = FrameFile(path)
    return frames


def describe_source(source: StrPath, clips: Sequence[ClipInfo], **settings) -> dict:
    """As `describe`; of an LMDB, size and time of change of its data stand for every frame."""
    if not is_lmdb(source):
        return describe(source, clips, **settings)
    root = Path(source).resolve()
    stat = (root / 'data.mdb').stat()
    state = [stat.st_size, stat.st_mtime_ns]
    frames = {f'{clip.name}/{frame}': state for clip in clips for frame in clip.frames}
    return {**settings, 'source': str(root), 'frames': frames}


def changed_keys(record: dict | None, job: dict) -> set[str]:
    """Keys whose source has not the size and time of change that it had when it was packed.

    Args:
        record: What `describe_source` said when the LMDB was packed; None if that is not known.
        job: What it says now.
    """
    packed = record['frames'] if record is not None and record['source'] == job['source'] else {}
    return {os.path.splitext(name)[0] for name, state in job['frames'].items() if packed.get(name) != state}
