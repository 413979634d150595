"""The clips of a benchmark: any folder or LMDB, and the layouts in which the field's test sets come."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from basicsr_plugins.data.any_scale import CroppedReader
from basicsr_plugins.data.bd_lr import DegradedReader
from basicsr_plugins.data.clips import ClipReader, check_sizes, paired_clips
from basicsr_plugins.data.meta_info import ClipInfo
from basicsr_plugins.data.vsr_test_dataset import ClipFrames
from basicsr_plugins.errors import InputError
from basicsr_plugins.scales import Scale, describe_scale

# first what is downsampled bicubically; {} is the scale
LQ_FOLDERS = ('BIx{}', 'BI', 'bicubic', 'sharp_bicubic', 'LR_bicubic/X{}', 'LR', 'LQ', 'BDx{}', 'BD', 'blur')
GT_FOLDERS = ('GT', 'HR', 'sharp')
CLIP_LQ_FOLDERS = ('input{}', 'bicubic{}', 'blur{}')  # SPMC, and UDM10 as PFNL's authors give it: <clip>/truth, ...
CLIP_GT_FOLDER = 'truth'
SAMPLES, SAMPLE_SIZE = 16, 4096  # blocks of a file, and their bytes, that its fingerprint depends on


@dataclass
class BenchmarkClip:
    """A clip; its frames are read when they are asked for, LQ (3, h, w) and GT (3, s * h, s * w), RGB in [0, 1]."""

    name: str
    frames: tuple[str, ...]
    lq: ClipFrames
    gt: ClipFrames

    @cached_property
    def content(self) -> str:
        """Another text when frames of LQ or GT, or the LMDBs they are in, become others."""
        return fingerprint(path for frames in (self.lq, self.gt) for path in _files(frames))


def _files(frames: ClipFrames) -> list[Path]:
    root = frames.reader.root
    if frames.reader.is_lmdb:
        return [root / 'data.mdb']
    return [root / frames.info.name / frame for frame in frames.info.frames]


def fingerprint(paths: Iterable[str | os.PathLike]) -> str:
    """A hash of files: of their sizes, times of change, and samples of their bytes (all bytes of small files).

    Raises:
        InputError: If one cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            with open(path, 'rb') as file:
                status = os.fstat(file.fileno())
                digest.update(f'{status.st_size} {status.st_mtime_ns} '.encode())
                last = max(status.st_size - SAMPLE_SIZE, 0)
                for i in range(SAMPLES):
                    file.seek(last * i // (SAMPLES - 1))
                    digest.update(file.read(SAMPLE_SIZE))
        except OSError as error:
            raise InputError(f'{path} cannot be read: {error.strerror}.') from error
    return digest.hexdigest()


def find_roots(data: str | Path, scale: Scale, degradation: str | None = None) -> tuple[Path, Path]:
    """The folders or LMDBs of LQ and GT below a test set's folder.

    Vid4, REDS4, UDM10: `<data>/GT/<clip>` and `<data>/BIx4/<clip>` (or `sharp_bicubic`, ...), as folders or `*.lmdb`.
    SPMC: `<data>/<clip>/truth` and `<data>/<clip>/input4`; there both are `<data>`. With a `degradation`, which makes
    LQ of GT, both are that of GT.

    Raises:
        InputError: If neither is found.
    """
    data = Path(data)
    if not data.is_dir():
        raise InputError(f'there is no folder {data}.')
    if any(data.glob(f'*/{CLIP_GT_FOLDER}')):
        return data, data
    asked = describe_scale(scale)
    gt = _first_folder(data, GT_FOLDERS, asked)
    lq = _first_folder(data, LQ_FOLDERS, asked) if degradation is None else gt
    if gt is None or lq is None:
        missing, tried = ('GT', GT_FOLDERS) if gt is None else ('LQ', LQ_FOLDERS)
        raise InputError(
            f'{data}: found no folder of {missing} clips ({", ".join(tried).format(*[asked] * len(tried))}); '
            'name the folders of LQ and GT themselves, or a degradation that makes LQ of GT.'
        )
    return lq, gt


def _first_folder(data: Path, names: tuple[str, ...], scale: str) -> Path | None:
    folders = [data / (name.format(scale) + suffix) for name in names for suffix in ('', '.lmdb')]
    return next((folder for folder in folders if folder.is_dir()), None)


def open_clips(
    lq_root: str | Path, gt_root: str | Path, scale: Scale, degradation: str | None = None
) -> list[BenchmarkClip]:
    """The clips of two folders or LMDBs, sorted by name; of each the first frames' sizes are checked.

    Args:
        lq_root, gt_root: Folders of clips, or LMDBs; the same folder for the layout of SPMC.
        scale: GT is that many times as large, rounded.
        degradation: Makes LQ of GT, which is cropped so that its size is LQ's, scaled; of `any_scale.BICUBIC`.

    Raises:
        InputError: If a clip or a frame is missing on one side, or a size does not fit.
    """
    lq, gt = _reader(lq_root, 'LQ'), _reader(gt_root, 'GT')
    same = Path(lq_root).resolve() == Path(gt_root).resolve() and degradation is None
    if degradation is not None:
        gt = CroppedReader(gt, scale)
        lq = DegradedReader(gt, degradation, scale)
    pairs = _paired_subfolders(lq, scale) if same else [(one.name, one, two) for one, two in paired_clips(lq, gt, None)]
    clips = []
    for name, lq_clip, gt_clip in pairs:
        check_sizes(
            lq.read(lq_clip.name, lq_clip.frames[0]),
            gt.read(gt_clip.name, gt_clip.frames[0]),
            scale,
            f'{lq_clip.name}/{lq_clip.frames[0]} of {lq.root}',
            f'{gt_clip.name}/{gt_clip.frames[0]} of {gt.root}',
        )
        frames = tuple(Path(frame).stem for frame in gt_clip.frames)
        clips.append(BenchmarkClip(name, frames, ClipFrames(lq, lq_clip), ClipFrames(gt, gt_clip)))
    return clips


def _reader(root: str | Path, key: str) -> ClipReader:
    return ClipReader(root, {'type': 'lmdb' if (Path(root) / 'data.mdb').is_file() else 'disk'}, key)


def _paired_subfolders(reader: ClipReader, scale: Scale) -> list[tuple[str, ClipInfo, ClipInfo]]:
    """`<clip>/truth` with the first of `<clip>/input4`, `<clip>/bicubic4`, `<clip>/blur4` that there is."""
    scale = describe_scale(scale)
    found = {clip.name: clip for clip in reader.clips()}
    pairs = []
    for gt_name in sorted(name for name in found if name.endswith(f'/{CLIP_GT_FOLDER}')):
        clip = gt_name.rpartition('/')[0]
        lq_name = next((n for n in (f'{clip}/{one.format(scale)}' for one in CLIP_LQ_FOLDERS) if n in found), None)
        if lq_name is None:
            raise InputError(f'{reader.root}: clip {clip} has no folder {CLIP_LQ_FOLDERS[0].format(scale)}.')
        if len(found[lq_name].frames) != len(found[gt_name].frames):
            raise InputError(
                f'{reader.root}: {lq_name} has {len(found[lq_name].frames)} frames, '
                f'but {gt_name} has {len(found[gt_name].frames)}.'
            )
        pairs.append((clip, found[lq_name], found[gt_name]))
    if not pairs:
        raise InputError(f'{reader.root} holds no clips with a folder {CLIP_GT_FOLDER}.')
    return pairs
