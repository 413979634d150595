"""Open what is upscaled, and where it goes: videos and images alike.

source = open_source('clip.mp4')
with open_target('clip_x4.mp4', source, scale=4) as target:
    for index, frame in enumerate(source):
        if index >= target.num_done:
            target.write(upscale(frame))
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from basicsr_plugins.errors import InputError
from basicsr_plugins.files import IMAGE_SUFFIXES
from basicsr_plugins.scales import Scale
from basicsr_plugins.video.film_source import VideoSource
from basicsr_plugins.video.film_target import CONTAINERS, VideoTarget
from basicsr_plugins.video.images import ImageSource, ImageTarget, list_images
from basicsr_plugins.video.media import Source, Target, VideoSettings

# neither written nor meant as folders
NO_TARGETS = ('.webm', '.avi', '.ts', '.m2ts', '.mts', '.m4v', '.gif', '.wmv', '.flv', '.mpg', '.mpeg', '.vob', '.ogv')

__all__ = ['ImageSource', 'ImageTarget', 'Source', 'Target', 'VideoSettings', 'VideoSource', 'VideoTarget']
__all__ += ['open_source', 'open_target', 'size_multiples']


def open_source(where: str | os.PathLike, chroma: str = 'nearest') -> Source:
    """Open a video file, a folder or a glob ('clip/*.png') of images, or one image.

    Args:
        where: The path or glob.
        chroma: Of videos with fewer chroma than luma samples: `nearest` repeats them, `linear` interpolates.

    Raises:
        InputError: If there is nothing, or it is neither.
    """
    path = Path(where)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise InputError(
            f'{where} is neither a file nor a folder, and frames are read more than once; copy them first.'
        )
    if path.is_file() and path.suffix.lower() not in IMAGE_SUFFIXES:
        return VideoSource(path, chroma)
    is_glob = not path.exists() and any(sign in str(where) for sign in '*?[')
    if not path.exists() and not is_glob:
        raise InputError(f'there is no file or folder {where}.')
    return ImageSource(list_images(where), str(where))


def open_target(
    path: str | os.PathLike,
    source: Source,
    scale: Scale,
    settings: VideoSettings | None = None,
    resume: bool = False,
    force: bool = False,
    job: Mapping | None = None,
    size: tuple[int, int] | None = None,
    time_scale: int = 1,
) -> Target:
    """Open an output: a video file (.mp4, .mov, .mkv), or else a folder of PNGs. The arguments are those of `Target`.

    Raises:
        InputError: As `Target`, and if the name has the suffix of another kind of file.
    """
    kind = _kind_of(Path(path))
    settings = settings or VideoSettings()
    return kind(path, source, scale, settings, resume, force, job, size, time_scale)


def size_multiples(path: str | os.PathLike, source: Source, settings: VideoSettings) -> tuple[int, int]:
    """Of what height and width of an output's frames must be multiples: of 2 where a video has less chroma than luma.

    Raises:
        InputError: As `open_target`.
    """
    return VideoTarget.size_multiples(source, settings) if _kind_of(Path(path)) is VideoTarget else (1, 1)


def _kind_of(path: Path) -> type[Target]:
    if str(path) == '-':
        raise InputError('the output - would be a stream, which is not written; name a file or a folder.')
    suffix = path.suffix.lower()
    if suffix in CONTAINERS:
        return VideoTarget
    if suffix in IMAGE_SUFFIXES or suffix in NO_TARGETS:
        raise InputError(f'{path}: {suffix} is not written; use {", ".join(CONTAINERS)} or a folder of PNGs.')
    return ImageTarget
