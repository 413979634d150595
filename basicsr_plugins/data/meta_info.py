"""Which clips there are and how long they are: from a meta info file, from an LMDB's own list, or by scanning folders.

Two text formats of the toolbox: the meta info file has a line per clip (`000 100 (720,1280,3)`), the `meta_info.txt`
inside an LMDB a line per frame (`000/00000000.png (720,1280,3) 1`, the last number being the PNG compression level).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn, Union

from basicsr_plugins.errors import InputError
from basicsr_plugins.files import IMAGE_SUFFIXES, write_atomically

StrPath = Union[str, 'os.PathLike[str]']
Shape = tuple[int, int, int]

CLIP_LINE = re.compile(r'(\S+) (\d+) \((\d+),(\d+),(\d+)\)')
FRAME_LINE = re.compile(r'(\S+)\.png \((\d+),(\d+),(\d+)\) (\d+)')


class ClipInfo(NamedTuple):
    """A clip and its frames in order: file names in a folder, key stems in an LMDB or a meta info file."""

    name: str
    frames: tuple[str, ...]


class FrameInfo(NamedTuple):
    """A line of an LMDB's `meta_info.txt`: the key, the shape (h, w, c), the PNG compression level."""

    key: str
    shape: Shape
    compress_level: int


def read_meta_info(path: StrPath) -> list[ClipInfo]:
    """Read a meta info file; frames are numbered from `00000000`.

    Args:
        path: The file, with lines such as `000 100 (720,1280,3)`; empty lines do not count.

    Returns:
        The clips, sorted by name.

    Raises:
        InputError: The file is missing, empty or damaged; the message names the line.
    """
    lengths = {}
    for where, line in _lines(path):
        match = CLIP_LINE.fullmatch(line)
        if match is None or int(match[2]) == 0:
            raise InputError(
                f"{where}: '{line}' should be 'clip frames (height,width,channels)': 000 100 (720,1280,3)."
            )
        if match[1] in lengths:
            raise InputError(f'{where}: clip {match[1]} is listed twice; remove one of the lines.')
        lengths[match[1]] = int(match[2])
    return [ClipInfo(name, numbered(lengths[name])) for name in sorted(lengths)]


def write_meta_info(path: StrPath, clips: Iterable[tuple[ClipInfo, Shape]]) -> None:
    """Write a meta info file, whole or not at all.

    Args:
        path: The file to write. One that lists the same is left alone, another one is not overwritten.
        clips: Each clip with the shape (h, w, c) of its frames.

    Raises:
        InputError: The format cannot hold a clip (see `check_listable`), or a file that lists other clips is there.
    """
    path = Path(path)
    clips = list(clips)
    check_listable(path, (clip for clip, _ in clips))
    text = ''.join(f'{clip.name} {len(clip.frames)} ({h},{w},{c})\n' for clip, (h, w, c) in clips)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    elif path.read_bytes() != text.encode():
        raise InputError(f'{path} exists and lists other clips; remove it or give another name.')


def check_listable(path: StrPath, clips: Iterable[ClipInfo]) -> None:
    """Check that a meta info file can list the clips.

    Raises:
        InputError: A clip's name has blanks, or its frames are not `00000000`, `00000001`, ...
    """
    for clip in clips:
        if re.search(r'\s', clip.name):
            raise InputError(f"{path} cannot list clip '{clip.name}', whose name has blanks; rename its folder.")
        for frame, expected in zip(clip.frames, numbered(len(clip.frames))):
            if Path(frame).stem != expected:
                raise InputError(
                    f'{path} cannot list clip {clip.name}: its frames must be numbered from 00000000, and {frame} '
                    f'stands in place of {expected}; rename its frames.'
                )


def clips_from_lmdb(path: StrPath) -> list[ClipInfo]:
    """List the clips of an LMDB, whose keys are `clip/frame`, from its own `meta_info.txt`.

    Args:
        path: The LMDB folder.

    Returns:
        The clips, sorted by name; frames are key stems.

    Raises:
        InputError: `meta_info.txt` is missing, empty or damaged, or frames are missing within a clip.
    """
    clips = {}
    for frame in read_lmdb_meta_info(path):
        clip, slash, stem = frame.key.rpartition('/')
        if not slash:
            raise InputError(f"{path}: key '{frame.key}' is not 'clip/frame'; pack it anew from a folder of clips.")
        clips.setdefault(clip, []).append(stem)
    return [_checked(path, name, sorted(clips[name])) for name in sorted(clips)]


def clips_from_folder(path: StrPath) -> list[ClipInfo]:
    """List the clips of a folder: every folder in it, at any depth, that directly holds images.

    Hidden files and folders, and files that are not images, do not count.

    Args:
        path: The folder; a clip's name is its path within it, such as `000` or `00001/0001`.

    Returns:
        The clips, sorted by name; frames are file names.

    Raises:
        InputError: There is no such folder, it holds no clips or holds images itself, a clip is empty, or frames are
            missing within a clip.
    """
    root = Path(path)
    if not root.is_dir():
        raise InputError(f'{root} is not a folder of clips; check the path.')
    clips = []
    for folder, subfolders, files in os.walk(root, onerror=_refuse, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith('.')]
        images = sorted(name for name in files if not name.startswith('.') and name.lower().endswith(IMAGE_SUFFIXES))
        if images and Path(folder) == root:
            raise InputError(f'{root} holds images itself ({images[0]}); give the folder that holds the clip folders.')
        if not images and not subfolders and Path(folder) != root:
            raise InputError(f'clip {folder} is empty; add its frames or remove it.')
        if images:
            clips.append(_checked(root, Path(folder).relative_to(root).as_posix(), images))
    if not clips:
        raise InputError(f'{root} holds no clips; a clip is a folder of images in it.')
    return sorted(clips)


def read_lmdb_meta_info(path: StrPath) -> list[FrameInfo]:
    """Read the `meta_info.txt` of an LMDB, in the order in which it stands.

    Args:
        path: The LMDB folder.

    Raises:
        InputError: The file is missing, empty or damaged, or a key is listed twice.
    """
    frames = {}
    for where, line in _lines(Path(path) / 'meta_info.txt'):
        match = FRAME_LINE.fullmatch(line)
        if match is None:
            raise InputError(f"{where}: '{line}' should be 'key.png (h,w,c) level': 000/00000000.png (720,1280,3) 1.")
        key, h, w, c, compress_level = match.groups()
        if key in frames:
            raise InputError(f'{where}: key {key} is listed twice; pack {path} anew.')
        frames[key] = FrameInfo(key, (int(h), int(w), int(c)), int(compress_level))
    return list(frames.values())


def numbered(num_frame: int) -> tuple[str, ...]:
    """The frame stems that a meta info file implies: `00000000`, `00000001`, ..."""
    return tuple(f'{i:08d}' for i in range(num_frame))


def _lines(path: StrPath) -> list[tuple[str, str]]:
    """The lines of a text file that are not empty, each with `path:number` to begin an error with."""
    try:
        text = Path(path).read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'{path} cannot be read: {getattr(error, "strerror", None) or error}.') from error
    lines = [(f'{path}:{i}', line.strip()) for i, line in enumerate(text.split('\n'), 1) if line.strip()]
    if not lines:
        raise InputError(f'{path} is empty; make it anew.')
    return lines


def _checked(root: StrPath, name: str, frames: Sequence[str]) -> ClipInfo:
    """The clip, once its frames count up by one: a gap is a lost frame, and unpadded numbers sort wrongly."""
    for previous, frame in zip(frames, frames[1:]):
        (prefix, number), (next_prefix, next_number) = _split(previous), _split(frame)
        if prefix != next_prefix or not number or not next_number or int(next_number) != int(number) + 1:
            raise InputError(
                f'clip {name} in {root}: {previous} is followed by {frame}; frames must be numbered one by one, '
                'with leading zeros.'
            )
    return ClipInfo(name, tuple(frames))


def _split(frame: str) -> tuple[str, str]:
    """`'im0012.png'` -> `('im', '0012')`."""
    return re.fullmatch(r'(.*?)(\d*)(?:\.\w+)?', frame, re.DOTALL).groups()


def _refuse(error: OSError) -> NoReturn:
    raise InputError(f'{error.filename} cannot be read: {error.strerror}.') from error
