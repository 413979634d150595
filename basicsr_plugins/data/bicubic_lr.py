"""Make low-resolution clips from ground truth: by the toolbox's `imresize`, as MATLAB's bicubic does, or by blur."""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path

import numpy as np
from tqdm import tqdm

from basicsr_plugins.data.meta_info import StrPath, clips_from_folder
from basicsr_plugins.data.preparation import (
    cannot_write,
    default_num_worker,
    describe,
    encode_png,
    in_order,
    read_image,
    recorded,
)
from basicsr_plugins.errors import InputError
from basicsr_plugins.files import write_atomically
from basicsr_plugins.scales import Scale, check_scale, describe_scale, lr_size, per_axis, scaled_size, whole_factor


def make_bicubic_lr(
    source: StrPath,
    output: StrPath,
    scale: Scale = 4,
    num_worker: int | None = None,
    degradation: str | None = None,
) -> int:
    """Make LR clips: the same clip and frame names, as PNG. A run that was interrupted keeps what it had finished.

    Args:
        source: Folder of ground-truth clips, see `clips_from_folder`.
        output: Folder to write the LR clips to.
        scale: A factor from 1 to 16, or two, vertical and horizontal. Frames that are no LR frame's scaled size
            (`scales.scaled_size`) lose their last rows and columns first.
        num_worker: Processes; 0 works in this process. Default: one per core.
        degradation: Instead of bicubic: blur and decimation by one of the conventions of `data.bd_lr`, x4.

    Returns:
        The number of frames made by this run.

    Raises:
        InputError: A frame is missing or damaged, or too small; the folder holds LR of another scale or source; the
            scale is out of range.
    """
    source, output = Path(source), Path(output)
    check_scale(scale, 'the scale')
    if source.resolve() in (output.resolve(), *output.resolve().parents):
        raise InputError(f'{output} lies in its own source {source}; give a path outside.')
    if degradation is not None:
        # BasicSR takes seconds to import
        from basicsr_plugins.data.bd_lr import check_convention

        check_convention(degradation, scale)
    clips = clips_from_folder(source)
    frames = [
        (source / clip.name / name, output / clip.name / f'{Path(name).stem}.png')
        for clip in clips
        for name in clip.frames
    ]
    num_worker = default_num_worker() if num_worker is None else num_worker
    try:
        said = scale if isinstance(scale, int) else describe_scale(scale)
        with recorded(output, describe(source, clips, scale=said, degradation=degradation)):
            for part in output.rglob('.*.part'):  # of a run that was killed while it wrote
                part.unlink()
            return _make_frames(output, frames, scale, degradation, num_worker)
    except OSError as error:
        raise InputError(cannot_write(output, error)) from error


def bicubic_downsample(image: np.ndarray, scale: Scale) -> np.ndarray:
    """Crop to what an LR frame, scaled, has (`crop_to_scale`), shrink with the toolbox's `imresize`, round.

    Args:
        image: (h, w) or (h, w, c), of 8 or 16 bits per value.
        scale: Factor by which it shrinks, or two.

    Returns:
        (h', w') or (h', w', c), of the same type; `scales.lr_size` of (h, w), that is (h // scale, w // scale) for a
        whole factor.
    """
    # BasicSR takes seconds to import
    from basicsr.utils.matlab_functions import imresize

    from basicsr_plugins.ops.bicubic import bicubic_matrix

    peak, factor = np.iinfo(image.dtype).max, whole_factor(scale)
    cropped = crop_to_scale(image, scale).astype(np.float32) / peak
    if factor is not None:
        lq = imresize(cropped, 1 / factor)
    else:
        rows, columns = (bicubic_matrix(*pair).numpy() for pair in zip(cropped.shape, lr_size(image.shape[:2], scale)))
        lq = np.einsum('ih,hw...,jw->ij...', rows, cropped, columns, optimize=True)
    return (lq.clip(0, 1) * peak).round().astype(image.dtype)


def crop_to_scale(image: np.ndarray, scale: Scale) -> np.ndarray:
    """(H, W, ...) without the last rows and columns that no LR frame, scaled, has."""
    height, width = scaled_size(lr_size(image.shape[:2], scale), scale)
    return image[:height, :width]


def downsample(image: np.ndarray, scale: Scale, degradation: str | None = None) -> np.ndarray:
    """As `bicubic_downsample`, or by a convention of `data.bd_lr`; of grey images too."""
    if degradation is None:
        return bicubic_downsample(image, scale)
    from basicsr_plugins.data.bd_lr import bd_downsample_images

    lq = bd_downsample_images(np.atleast_3d(image)[None], degradation, scale)[0]
    return lq if image.ndim == 3 else lq[..., 0]


def _make_frames(
    output: Path, frames: list[tuple[Path, Path]], scale: Scale, degradation: str | None, num_worker: int
) -> int:
    todo = [(gt, lq, scale, degradation) for gt, lq in frames if not lq.exists()]
    for folder in {lq.parent for _, lq, *_ in todo}:
        folder.mkdir(parents=True, exist_ok=True)
    if len(todo) < len(frames):
        print(f'{output}: {len(frames) - len(todo)} of {len(frames)} frames are there already.')
    cropped = {}
    preload = ('basicsr_plugins.ops.bicubic', 'basicsr.utils.matlab_functions', 'basicsr_plugins.data.bd_lr')
    with closing(in_order(_make_frame, todo, num_worker, preload)) as shapes:
        progress = tqdm(shapes, output.name, initial=len(frames) - len(todo), total=len(frames), unit='frame')
        for (h, w), (gt, *_) in zip(progress, todo):
            if scaled_size(lr_size((h, w), scale), scale) != (h, w):
                cropped[gt.parent] = (h, w)
    for clip, (h, w) in cropped.items():
        height, width = scaled_size(lr_size((h, w), scale), scale)
        print(f'{clip}: {w}x{h} is cropped to {width}x{height} before shrinking; crop the GT likewise.')
    print(f'{output} holds {len(frames)} frames, {len(todo)} made now.')
    return len(todo)


def _make_frame(gt: Path, lq: Path, scale: Scale, degradation: str | None) -> tuple[int, int]:
    """Runs in a worker; returns the (h, w) of the ground truth."""
    image = read_image(gt)
    h, w = image.shape[:2]
    least = math.ceil((2 if degradation is None else 4) * max(per_axis(scale)))
    if min(h, w) < least:
        raise InputError(
            f'{gt} is {w}x{h}, too small to shrink by {describe_scale(scale)}; give frames of {least} pixels or more.'
        )
    write_atomically(lq, encode_png(downsample(image, scale, degradation)))
    return h, w
