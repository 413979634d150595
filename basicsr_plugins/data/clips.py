"""Clips of frames, on disk or in an LMDB: which there are, and reading their frames.

Shape shorthand: h and w height and width of a frame.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

import lmdb
import numpy as np
from basicsr.utils import FileClient, imfrombytes

from basicsr_plugins.data.lmdb_store import check_whole
from basicsr_plugins.data.meta_info import ClipInfo, clips_from_folder, clips_from_lmdb, read_meta_info
from basicsr_plugins.errors import InputError
from basicsr_plugins.option_schema import Key

VAL_PARTITIONS = {
    'REDS4': ['000', '011', '015', '020'],
    'official': [f'{clip:03d}' for clip in range(240, 270)],
}
IO_BACKEND = Key(  # the option `io_backend`; the toolbox adds the last two
    'dict',
    required=True,
    keys={'type': Key('str', required=True, choices=('disk', 'lmdb')), 'db_paths': Key(), 'client_keys': Key()},
)


class ClipReader:
    """Reads frames of clips through the toolbox's `FileClient`.

    Args:
        root: The folder of clips, or the LMDB.
        io_backend: The toolbox's `io_backend` options: `type` is `disk` or `lmdb`.
        key: The option that named `root`, for messages.

    Raises:
        InputError: If `root` is not there, or is not what `io_backend` says.
    """

    def __init__(self, root: str | os.PathLike, io_backend: Mapping, key: str):
        self.root = Path(root)
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

    def read(self, clip: str, frame: str) -> np.ndarray:
        """One frame.

        Returns:
            (h, w, 3), BGR, uint8.

        Raises:
            InputError: If the frame is missing or cannot be decoded, naming its file or key.
        """
        name = f'{clip}/{PurePath(frame).stem}' if self.is_lmdb else str(self.root / clip / frame)
        shown = f'{name} of {self.root}' if self.is_lmdb else name
        try:
            client = lmdb_client(self.root) if self.is_lmdb else FileClient('disk')
            content = client.get(name, 'clips')
        except OSError as error:
            raise InputError(f'{shown}: {error.strerror}.') from error
        if content is None:
            raise InputError(f'{shown}: there is no such key.')
        image = imfrombytes(content) if content else None
        if image is None:
            raise InputError(f'{shown} is damaged: it does not decode as an image.')
        return image


_LMDB_CLIENTS = {}  # path -> (process, client)


def lmdb_client(path: Path):
    """The toolbox's `FileClient` of an LMDB, one for each LMDB and process.

    LMDB refuses to open a database twice in a process, as training and validation on the same one would, and one that
    was open when a DataLoader forked must be opened anew in the worker.
    """
    key = str(path.resolve())
    pid, client = _LMDB_CLIENTS.get(key, (None, None))
    if pid != os.getpid():
        if client is not None:
            client.client._client['clips'].close()
        try:
            client = FileClient('lmdb', db_paths=[key], client_keys=['clips'])
        except lmdb.Error as error:
            raise InputError(f'{path} cannot be opened as an LMDB ({error}).') from error
        check_whole(path, client.client._client['clips'])
        _LMDB_CLIENTS[key] = os.getpid(), client
    return client


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


def check_scale(lq_image: np.ndarray, gt_image: np.ndarray, scale: int, lq_name: str, gt_name: str) -> None:
    """Refuse a GT frame that is not exactly `scale` times its LQ frame."""
    (h, w), (gt_h, gt_w) = lq_image.shape[:2], gt_image.shape[:2]
    if (gt_h, gt_w) != (h * scale, w * scale):
        raise InputError(
            f'{gt_name} is {gt_w}x{gt_h}, but {scale} times {lq_name} ({w}x{h}) would be {w * scale}x{h * scale}.'
        )
