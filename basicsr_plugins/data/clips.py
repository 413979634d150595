"""Clips of frames, on disk or in an LMDB: which there are, and reading their frames.

Shape shorthand: h and w height and width of a frame.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Union

import numpy as np
from basicsr.utils import FileClient, get_root_logger, imfrombytes

from basicsr_plugins.data.frame_formats import PNG_SIGNATURE, DecodedFrame, StoredFrame, stored_layout, stored_shape
from basicsr_plugins.data.lmdb_reading import get_value
from basicsr_plugins.data.meta_info import ClipInfo, clips_from_folder, clips_from_lmdb, read_meta_info
from basicsr_plugins.errors import InputError
from basicsr_plugins.files import is_cut_short
from basicsr_plugins.option_schema import Key
from basicsr_plugins.scales import Scale, describe_scale, scaled_size

VAL_PARTITIONS = {
    'REDS4': ['000', '011', '015', '020'],
    'official': [f'{clip:03d}' for clip in range(240, 270)],
}
WITH_ALPHA = (2, 4)  # channels
IO_BACKEND = Key(  # the option `io_backend`; the toolbox adds the last two
    'dict',
    required=True,
    keys={'type': Key('str', required=True, choices=('disk', 'lmdb')), 'db_paths': Key(), 'client_keys': Key()},
)


HasShape = Union[np.ndarray, StoredFrame, DecodedFrame]


class ClipReader:
    """Reads frames of clips, from folders through the toolbox's `FileClient`, or from an LMDB of any layout.

    Args:
        root: The folder of clips, or the LMDB.
        io_backend: The toolbox's `io_backend` options: `type` is `disk` or `lmdb`.
        key: The option that named `root`, for messages.

    Raises:
        InputError: If `root` is not there, or is not what `io_backend` says.
    """

    def __init__(self, root: str | os.PathLike, io_backend: Mapping, key: str):
        self.root = Path(root)
        self._has_noted_alpha = False
        self.is_lmdb = io_backend['type'] == 'lmdb'
        if not self.root.is_dir():
            raise InputError(f'{key}: there is no folder {self.root}.')
        if self.is_lmdb and not (self.root / 'data.mdb').is_file():
            raise InputError(f'{key}: {self.root} is not an LMDB, but io_backend says type: lmdb.')
        if not self.is_lmdb and (self.root / 'data.mdb').is_file():
            raise InputError(f'{key}: {self.root} is an LMDB, but io_backend says type: disk.')

    def clips(self) -> list[ClipInfo]:
        """All clips with the names of their frames, sorted by name."""
        return clips_from_lmdb(self.root) if self.is_lmdb else clips_from_folder(self.root)

    def open(self, clip: str, frame: str) -> StoredFrame | DecodedFrame:
        """One frame, to read a patch or the whole of; a frame of layout `raw` or `tiles` is not decoded by this.

        Raises:
            InputError: If the frame is missing, damaged or of another version, naming its file or key.
        """
        if not self.is_lmdb:
            name = str(self.root / clip / frame)
            content = self._read_file(name)
            return self._decode(b'' if is_cut_short(content) else content, name)
        key = f'{clip}/{PurePath(frame).stem}'
        value, owner = get_value(self.root, key)
        name = f'{key} of {self.root}'
        if value is None:
            raise InputError(f'{name}: there is no such key.')
        return self._decode(value, name) if stored_layout(value) == 'png' else StoredFrame(value, name, owner)

    def read(self, clip: str, frame: str) -> np.ndarray:
        """One frame.

        Returns:
            (h, w, 3), BGR, uint8.

        Raises:
            InputError: As `open`.
        """
        return np.ascontiguousarray(self.open(clip, frame).whole()[::-1].transpose(1, 2, 0))

    def _read_file(self, path: str) -> bytes:
        try:
            return FileClient('disk').get(path)
        except OSError as error:
            raise InputError(f'{path}: {error.strerror}.') from error

    def _decode(self, content: bytes | memoryview, name: str) -> DecodedFrame:
        image = imfrombytes(content) if len(content) else None
        if image is None:
            raise InputError(f'{name} is damaged: it does not decode as an image.')
        is_png = bytes(content[: len(PNG_SIGNATURE)]) == PNG_SIGNATURE
        if is_png and not self._has_noted_alpha and stored_shape(content, name)[2] in WITH_ALPHA:
            self._has_noted_alpha = True
            get_root_logger().warning(f'{name} has an alpha channel; it is dropped, here and in all others.')
        return DecodedFrame(image)


class DerivedReader:
    """Frames that are made of another reader's when they are read; takes a `ClipReader`'s place.

    Args:
        source: Reads what they are made of.
    """

    def __init__(self, source: ClipReader):
        self.source = source
        self.root, self.is_lmdb = source.root, source.is_lmdb

    def clips(self) -> list[ClipInfo]:
        return self.source.clips()

    def open(self, clip: str, frame: str) -> DecodedFrame:
        """A frame, whole."""
        return DecodedFrame(self.read(clip, frame))

    def read(self, clip: str, frame: str) -> np.ndarray:
        """A frame, (h, w, 3), BGR, uint8."""
        raise NotImplementedError


def paired_clips(lq: ClipReader, gt: ClipReader | None, meta_info_file: str | None) -> list[tuple[ClipInfo, ClipInfo]]:
    """Clips that LQ and GT have in common, as pairs (LQ, GT); where there is no GT, the LQ clip stands for it.

    Args:
        lq, gt: The readers.
        meta_info_file: The toolbox's list of clips and lengths; without it, what LQ holds counts.

    Raises:
        InputError: If a clip or a frame is missing on one side.
    """
    lq_clips = {clip.name: clip for clip in lq.clips()}
    gt_clips = {clip.name: clip for clip in gt.clips()} if gt is not None else lq_clips
    if meta_info_file is not None:
        names = [clip.name for clip in _listed_clips(meta_info_file, lq, lq_clips, gt, gt_clips)]
    else:
        names = sorted(lq_clips)
        for name in sorted(gt_clips):
            if name not in lq_clips:
                raise InputError(f'clip {name} is in {gt.root}, but not in {lq.root}.')
    pairs = []
    for name in names:
        if name not in gt_clips:
            raise InputError(f'clip {name} is in {lq.root}, but not in {gt.root}.')
        lq_clip, gt_clip = lq_clips[name], gt_clips[name]
        if len(lq_clip.frames) != len(gt_clip.frames):
            raise InputError(
                f'clip {name} has {len(lq_clip.frames)} frames in {lq.root}, but {len(gt_clip.frames)} in {gt.root}.'
            )
        if _number(lq_clip.frames[0]) != _number(gt_clip.frames[0]):
            raise InputError(
                f'clip {name} begins with frame {lq_clip.frames[0]} in {lq.root}, but with {gt_clip.frames[0]} in '
                f'{gt.root}; frames are paired by number.'
            )
        pairs.append((lq_clip, gt_clip))
    if not pairs:
        raise InputError(f'{lq.root} holds no clips.')
    return pairs


def _number(frame: str) -> int | None:
    """The number that a frame's name ends with."""
    digits = re.search(r'(\d+)$', PurePath(frame).stem)
    return int(digits[1]) if digits else None


def _listed_clips(
    meta_info_file: str,
    lq: ClipReader,
    lq_clips: Mapping[str, ClipInfo],
    gt: ClipReader | None,
    gt_clips: Mapping[str, ClipInfo],
) -> list[ClipInfo]:
    """The clips of the meta info file, each with as many frames on both sides as the file says."""
    listed = read_meta_info(meta_info_file)
    for clip in listed:
        for reader, clips in ((lq, lq_clips), (gt or lq, gt_clips)):
            found = len(clips[clip.name].frames) if clip.name in clips else 0
            if found != len(clip.frames):
                raise InputError(
                    f'{meta_info_file} says that clip {clip.name} has {len(clip.frames)} frames, '
                    f'but {reader.root} holds {found}.'
                )
    return listed


def val_clip_names(where: str, val_partition: str | Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """The clips that an option `val_partition` names.

    Args:
        where: Section of the options, for messages.
        val_partition: `REDS4`, `official`, a list of clip names, or None (or `none`) for no clips.
        known: The clips that there are.

    Raises:
        InputError: If it is none of these, or lists a clip that is not there.
    """
    if val_partition is None or val_partition == 'none':
        return []
    if isinstance(val_partition, str):
        if val_partition not in VAL_PARTITIONS:
            raise InputError(
                f'{where}: val_partition must be REDS4, official, a list of clip names or none, not {val_partition!r}.'
            )
        return VAL_PARTITIONS[val_partition]
    for name in val_partition:
        if not isinstance(name, str):
            raise InputError(f"{where}: val_partition: {name!r} is a number to YAML; put clip names in quotes ('000').")
        if name not in known:
            raise InputError(f'{where}: val_partition names clip {name}, which is not in the data.')
    return list(val_partition)


def check_sizes(lq: HasShape, gt: HasShape, scale: Scale, lq_name: str, gt_name: str) -> None:
    """Refuse a GT frame that has not the scaled size of its LQ frame (`scales`); both have `shape`, (h, w, ...)."""
    (h, w), (gt_h, gt_w) = lq.shape[:2], gt.shape[:2]
    height, width = scaled_size((h, w), scale)
    if (gt_h, gt_w) != (height, width):
        raise InputError(
            f'{gt_name} is {gt_w}x{gt_h}, but {describe_scale(scale)} times {lq_name} ({w}x{h}) would be '
            f'{width}x{height}.'
        )
