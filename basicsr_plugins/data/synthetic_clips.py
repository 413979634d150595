"""Generated clips as folders of PNGs: a dataset to keep, or held-out clips for validation.

<output>/GT/<clip>/00000000.png ...
<output>/BIx4/<clip>/00000000.png ...    or LQ, where a degradation made it
<output>/synthetic_clips.json            what made them
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from basicsr_plugins.data.degradation import degrade_clip, read_degradation, shrink_bicubic
from basicsr_plugins.data.demo_data import write_png
from basicsr_plugins.data.synthetic_motion import Material, make_layers, render
from basicsr_plugins.data.synthetic_motion_dataset import read_material
from basicsr_plugins.errors import InputError

MANIFEST = 'synthetic_clips.json'
TRAINING, VALIDATION = 1, 2  # begin the seeds of clips; those of `SyntheticMotionDataset` begin with 0


def validation_set(
    output: str | os.PathLike,
    seed: int = 0,
    number: int = 8,
    num_frame: int = 20,
    size: tuple[int, int] = (192, 256),
    scale: int = 4,
    degradation: str | list[dict] | None = None,
    photos: bool | str = True,
) -> bool:
    """Write clips that no training sees: of other photographs, and with other seeds than any training has.

    Args:
        output: The folder to make; `VSRTestDataset` reads its GT and its BIx4 or LQ.
        seed, number, num_frame, size, scale, degradation, photos: As in `write_clips`.

    Returns:
        Whether anything was made; the same clips that are there already are kept.

    Raises:
        InputError: As `write_clips`.
    """
    return write_clips(output, number, num_frame, size, seed, scale, degradation, photos, held_out=True)


def write_clips(
    output: str | os.PathLike,
    number: int,
    num_frame: int,
    size: tuple[int, int],
    seed: int = 0,
    scale: int = 4,
    degradation: str | list[dict] | None = None,
    photos: bool | str = True,
    held_out: bool = False,
) -> bool:
    """Generate clips and write them; an interrupted run leaves nothing.

    Args:
        output: The folder to make.
        number: Of clips.
        num_frame: Frames of each.
        size: (h, w) of GT, divisible by `scale`.
        seed: The same seed gives the same clips; a clip's pictures depend on nothing else but its number and `size`.
        scale: s.
        degradation: How LR is made, see `data.degradation`. Default: MATLAB's bicubic.
        photos: As in `SyntheticMotionDataset`.
        held_out: Of the photographs for validation, and with seeds of their own.

    Returns:
        Whether anything was made; the same clips that are there already are kept.

    Raises:
        InputError: The folder holds something else, the sizes are impossible, or photographs are missing.
    """
    output = Path(output)
    if min(number, num_frame, scale) < 1 or any(side < scale or side % scale for side in size):
        raise InputError(
            f'{output}: {number} clips of {num_frame} frames of {size[1]}x{size[0]} cannot be made; give at least one '
            f'of each, and sides that are multiples of the scale, {scale}.'
        )
    content = {
        'number': number,
        'num_frame': num_frame,
        'size': list(size),
        'seed': seed,
        'scale': scale,
        'degradation': degradation,
        'photos': photos,
        'held_out': held_out,
    }
    if _is_there(output, content):
        return False
    material = read_material(str(output), photos, None, held_out)
    steps = read_degradation(str(output), degradation) if degradation else None
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{output.name}_', dir=output.parent) as temporary:
        folder = Path(temporary) / 'new'
        for clip in tqdm(range(number), unit='clip', desc=output.name):
            rng = np.random.default_rng([VALIDATION if held_out else TRAINING, seed, clip])
            _write_clip(folder, f'{clip:03d}', rng, material, num_frame, size, scale, steps)
        (folder / MANIFEST).write_text(json.dumps(content) + '\n')
        if output.exists():
            output.rmdir()  # it is empty
        folder.rename(output)
    return True


def _is_there(output: Path, content: dict) -> bool:
    """Whether the very clips are there.

    Raises:
        InputError: Something else is.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    manifest = output / MANIFEST
    if not manifest.is_file() or json.loads(manifest.read_text()) != content:
        raise InputError(f'{output} holds something else than these clips; name another folder or move it away.')
    return True


def _write_clip(
    folder: Path,
    name: str,
    rng: np.random.Generator,
    material: Material,
    num_frame: int,
    size: tuple[int, int],
    scale: int,
    steps: list[dict] | None,
) -> None:
    frames, _ = render(make_layers(rng, material, num_frame, size), size)
    lqs = shrink_bicubic(frames, scale) if steps is None else degrade_clip(frames, steps, rng, scale)
    for kind, images in (('GT', frames), (f'BIx{scale}' if steps is None else 'LQ', lqs)):
        (folder / kind / name).mkdir(parents=True)
        for t, image in enumerate(images):
            write_png(folder / kind / name / f'{t:08d}.png', cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
