"""Photographs for generated clips: those that ship inside well-known packages under a free licence, or a folder's.

Only pictures whose licence is recorded by their package or their publisher are listed; docs/weights.md has
the table. Those marked `held_out` are seen in validation clips and in no training clip.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np

from basicsr_plugins.errors import InputError
from basicsr_plugins.files import IMAGE_SUFFIXES

SMALLEST = 160  # pixels a side, of a photograph in a folder
HELD_OUT_SHARE = 8  # of a folder, one file in so many is held out


@dataclass(frozen=True)
class Photograph:
    """A picture inside an installed package.

    Args:
        file: Its path below the package's folder.
        package: The module that it ships with.
        shrink: Photograph pixels for one GT pixel at which it is sharp.
        author, licence: As the package or the publisher states them.
        weight: How often it is shown; textures and the sky, of which every part is alike, less often.
        held_out: For validation only.
    """

    file: str
    package: str
    shrink: float
    author: str
    licence: str
    weight: float = 1.0
    held_out: bool = False


PHOTOGRAPHS = (
    Photograph('data/astronaut.png', 'skimage', 1.2, 'NASA', 'public domain'),
    Photograph('data/brick.png', 'skimage', 1.3, 'CC0 Textures (Bricks25)', 'CC0 1.0', weight=0.5),
    Photograph('data/camera.png', 'skimage', 1.4, 'Lav Varshney', 'CC0 1.0', held_out=True),
    Photograph('data/chelsea.png', 'skimage', 1.0, 'Stefan van der Walt', 'CC0 1.0'),
    Photograph('data/coffee.png', 'skimage', 1.3, 'Rachel Michetti, Pikolo Espresso Bar', 'CC0 1.0', held_out=True),
    Photograph('data/grass.png', 'skimage', 1.4, 'CC0 Textures (Grass07)', 'CC0 1.0', weight=0.5),
    Photograph('data/gravel.png', 'skimage', 1.4, 'CC0 Textures (Gravel04)', 'CC0 1.0', weight=0.5),
    Photograph('data/hubble_deep_field.jpg', 'skimage', 1.4, 'NASA, ESA', 'public domain', weight=0.4),
    Photograph('data/retina.jpg', 'skimage', 2.5, 'Mikael Häggström', 'CC0 1.0', weight=0.4),
    Photograph('data/rocket.jpg', 'skimage', 1.2, 'SpaceX', 'public domain'),
    Photograph('datasets/images/china.jpg', 'sklearn', 1.2, 'danielbuechele', 'CC BY 2.0'),
    Photograph('datasets/images/flower.jpg', 'sklearn', 1.2, 'vultilion', 'CC BY 2.0', held_out=True),
    Photograph('mpl-data/sample_data/grace_hopper.jpg', 'matplotlib', 1.2, 'United States Navy', 'public domain'),
)
INSTALL = {'skimage': 'scikit-image', 'sklearn': 'scikit-learn', 'matplotlib': 'matplotlib'}


def photograph_files(folder: str | None = None, held_out: bool = False) -> list[tuple[str, float, float]]:
    """Which photographs there are.

    Args:
        folder: Take the images of this folder and of those below it instead of `PHOTOGRAPHS`.
        held_out: Those for validation, not those for training. Of a folder, the names decide, by a checksum.

    Returns:
        Path, the number of its pixels for one GT pixel at which it is sharp, and weight of each, in a fixed order.

    Raises:
        InputError: A package that holds some of them is not installed; the folder has none.
    """
    if folder is None:
        return [
            (_path_in_package(photo), photo.shrink, photo.weight) for photo in PHOTOGRAPHS if photo.held_out == held_out
        ]
    if not os.path.isdir(folder):
        raise InputError(f'photos: there is no folder {folder}.')
    root = Path(folder)
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob('*') if path.suffix in IMAGE_SUFFIXES)
    chosen = [name for name in names if (zlib.crc32(name.encode()) % HELD_OUT_SHARE == 0) == held_out]
    if not chosen:
        kind = 'validation' if held_out else 'training'
        raise InputError(f'photos: of the {len(names)} images in {folder}, none is for {kind}; add photographs.')
    return [(str(root / name), 1.2, 1.0) for name in chosen]


def _path_in_package(photo: Photograph) -> str:
    spec = find_spec(photo.package)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f'the photographs for generated clips need {INSTALL[photo.package]}; install it with '
            f'pip install {INSTALL[photo.package]}, or set photos: false.'
        )
    return os.path.join(spec.submodule_search_locations[0], photo.file)


@lru_cache(maxsize=32)
def read_photograph(path: str) -> tuple[np.ndarray, ...]:
    """A photograph and its halves: (h, w, 3) RGB uint8, then half as large, until the next would be too small.

    Raises:
        InputError: It is missing, damaged, or smaller than `SMALLEST` pixels.
    """
    image = cv2.imread(path, cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f'{path} is missing or damaged; install its package again, or remove it from the folder.')
    if min(image.shape[:2]) < SMALLEST:
        raise InputError(f'{path} is smaller than {SMALLEST} pixels; remove it from the folder.')
    levels = [cv2.cvtColor(image, cv2.COLOR_BGR2RGB)]
    while min(levels[-1].shape[:2]) >= 2 * SMALLEST:
        h, w = levels[-1].shape[:2]
        levels.append(cv2.resize(levels[-1], (w // 2, h // 2), interpolation=cv2.INTER_AREA))
    for level in levels:
        level.setflags(write=False)
    return tuple(levels)
