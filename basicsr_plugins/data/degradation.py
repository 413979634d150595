"""From ground truth to low resolution, whole clips at a time: MATLAB's bicubic, and what happens to real films.

`degradation:` in an option file is the name of a preset (`realbasicvsr`: section 3.3 of "Investigating Tradeoffs in
Real-World Video Super-Resolution", Chan et al., CVPR 2022; `film`: milder, for ordinary compressed films) or a list of
steps, each with its `type`, perhaps the probability `prob` that a clip undergoes it, and what differs from
`degradation_presets.DEFAULTS`:

    degradation:
      - {type: blur, prob: 0.5, sigma: [0.2, 1.0]}
      - {type: shrink, filters: [area, bicubic]}
      - {type: video, codecs: {libx264: 1}, crf: [20, 30]}

Shapes: t frames, (h, w) GT size, s the scale.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial

import cv2
import numpy as np
import torch
from torch import Tensor

from basicsr_plugins.data.any_scale import BICUBIC, shrink_frames
from basicsr_plugins.data.bd_lr import CONVENTIONS, bd_downsample, check_convention
from basicsr_plugins.data.degradation_presets import DEFAULTS, PRESETS
from basicsr_plugins.data.degradation_steps import FILTERS, KERNELS, apply_steps
from basicsr_plugins.data.degradation_video import DECODERS, SPEEDS
from basicsr_plugins.errors import InputError, check_keys, suggest
from basicsr_plugins.ops.bicubic import bicubic_matrix
from basicsr_plugins.scales import lr_size

NAMES = {  # what the keys that list names may hold
    ('blur', 'kinds'): KERNELS,
    ('resize', 'directions'): ('up', 'down', 'keep'),
    ('resize', 'filters'): FILTERS,
    ('shrink', 'filters'): (*FILTERS, 'imresize'),
    ('video', 'codecs'): DECODERS,
    ('video', 'speed'): SPEEDS,
}
LIMITS = {  # of numbers, where these do not go from 0 to ANY
    **dict.fromkeys((('blur', 'sigma'), ('blur', 'beta_generalized'), ('blur', 'beta_plateau')), (0.01, 1000)),
    ('blur', 'size'): (1, 1001),
    ('blur', 'omega'): (0, math.pi),
    ('resize', 'scale'): (0.01, 100),
    ('jpeg', 'quality'): (1, 100),
    ('video', 'crf'): (0, 51),
    ('video', 'frame_rate'): (1, 1000),
    ('video', 'gop'): (1, 10000),
}
ANY = 1e9


def read_degradation(where: str, option: str | Sequence[Mapping]) -> list[dict]:
    """Check the option `degradation` and complete it.

    Args:
        where: Name of the section for messages, as in `datasets: REDS`.
        option: Name of a preset, or a list of steps.

    Returns:
        Steps with all their keys, for `degrade_clip`.

    Raises:
        InputError: A preset, a step, a key or a name in it is unknown, a probability or a range is impossible.
    """
    where = f'{where}: degradation'
    if isinstance(option, str):
        if option not in PRESETS:
            raise InputError(f'{where}: there is no preset {option!r}; {suggest(option, PRESETS)}')
        option = PRESETS[option]
    if not isinstance(option, Sequence) or not option:
        raise InputError(f'{where} must be the name of a preset or a list of steps, but is {option!r}.')
    return [_read_step(f'{where}: step {number}', step) for number, step in enumerate(option, 1)]


def _read_step(where: str, step: Mapping) -> dict:
    if not isinstance(step, Mapping) or 'type' not in step:
        raise InputError(f'{where}: a step must have a type, as in {{type: blur}}, but is {step!r}.')
    kind = step['type']
    if kind not in tuple(DEFAULTS):
        raise InputError(f'{where}: there is no type {kind!r}; {suggest(str(kind), DEFAULTS)}')
    where = f'{where} ({kind})'
    check_keys(where, step, ['type'], ['prob', *DEFAULTS[kind]])
    complete = {'prob': 1.0, **DEFAULTS[kind], **step}
    if not isinstance(complete['prob'], (int, float)) or not 0 <= complete['prob'] <= 1:
        raise InputError(f'{where}: prob must lie in [0, 1], but is {complete["prob"]}.')
    for key, default in DEFAULTS[kind].items():
        if (kind, key) in NAMES:
            _check_names(f'{where}: {key}', complete[key], default, NAMES[kind, key])
        else:
            _check_numbers(f'{where}: {key}', complete[key], default, *LIMITS.get((kind, key), (0, ANY)))
    if kind == 'blur' and not all(isinstance(side, int) and side % 2 for side in complete['size']):
        raise InputError(f'{where}: size must be a range of odd whole numbers, but is {complete["size"]}.')
    if kind == 'resize' and not complete['scale'][0] <= 1 <= complete['scale'][1]:
        raise InputError(f'{where}: scale must be a range around 1, but is {complete["scale"]}.')
    if kind == 'video' and (complete['crf'] is None) == (complete['bit_rate'] is None):
        raise InputError(f'{where}: give either crf or bit_rate, and set the other to ~.')
    if kind == 'video':
        speeds = [SPEEDS.index(speed) for speed in complete['speed']]
        if len(speeds) != 2 or speeds[0] > speeds[1]:
            raise InputError(f'{where}: speed must be a range of {", ".join(SPEEDS)}, but is {complete["speed"]}.')
    if kind == 'shuffle':
        groups = complete['groups']
        if not isinstance(groups, list) or not groups or not all(isinstance(group, list) for group in groups):
            raise InputError(f'{where}: groups must hold lists of steps.')
        complete['groups'] = [
            [_read_step(f'{where}: step {number}', inner) for number, inner in enumerate(group, 1)] for group in groups
        ]
    return complete


def _check_names(where: str, value, default: Sequence | Mapping, names: Collection[str]) -> None:
    """Names must be known, and have weights where they have some by default."""
    if not isinstance(value, Mapping if isinstance(default, Mapping) else (list, tuple)):
        raise InputError(f'{where} must read as in {default}, but is {value!r}.')
    for name in value:
        if name not in names:
            raise InputError(f'{where}: there is no {name!r}; {suggest(name, names)}')
    weights = list(value.values()) if isinstance(value, Mapping) else [1] * len(value)
    if not all(_lies_in(weight, 0, ANY) for weight in weights) or not sum(weights):
        raise InputError(f'{where} must name at least one with a weight above 0, but is {value!r}.')


def _check_numbers(where: str, value, default, low: float, high: float) -> None:
    """What is a number, a range or true or false by default must be one."""
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise InputError(f'{where} must be true or false, but is {value!r}.')
    elif isinstance(default, (int, float)):
        if not _lies_in(value, low, high):
            raise InputError(f'{where} must be a number from {low:.4g} to {high:.4g}, but is {value!r}.')
    elif value is None and where.endswith((': omega', ': bit_rate', ': crf')):
        return
    elif isinstance(default, list) or where.endswith((': omega', ': bit_rate')):
        is_range = (
            isinstance(value, (list, tuple)) and len(value) == 2 and all(_lies_in(one, low, high) for one in value)
        )
        if not is_range or value[0] > value[1]:
            raise InputError(f'{where} must be a range [low, high] from {low:.4g} to {high:.4g}, but is {value!r}.')


def _lies_in(value, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def lq_maker(where: str, option: str | Sequence[Mapping], scale: int) -> Callable[..., Tensor]:
    """What makes LQ patches of GT patches in training: bicubic, a convention of `bd_lr`, a preset, or a list of steps.

    Args:
        where, option: As in `read_degradation`; `option` may also be of `any_scale.BICUBIC` or `bd_lr.CONVENTIONS`.
        scale: s.

    Returns:
        (gt, rng) -> lq, (t, 3, h, w) -> (t, 3, h / s, w / s), RGB in [0, 1].

    Raises:
        InputError: As `read_degradation`, or if a convention is not defined for the scale.
    """
    known = (*BICUBIC, *CONVENTIONS, *PRESETS)
    if isinstance(option, str) and option not in known:
        raise InputError(f'{where}: there is no degradation {option!r}; {suggest(option, known)}')
    if isinstance(option, str) and option in BICUBIC:
        return partial(_make_bicubic, name=option, scale=scale)
    if isinstance(option, str) and option in CONVENTIONS:
        check_convention(option, scale)
        return partial(_make_blurred, name=option, scale=scale)
    return partial(_make_degraded, steps=read_degradation(where, option), scale=scale)


def _make_bicubic(gt: Tensor, rng: np.random.Generator, name: str, scale: int) -> Tensor:
    return shrink_frames(gt, name, lr_size(gt.shape[-2:], scale))


def _make_blurred(gt: Tensor, rng: np.random.Generator, name: str, scale: int) -> Tensor:
    return bd_downsample(gt, name, scale)


def _make_degraded(gt: Tensor, rng: np.random.Generator, steps: Sequence[Mapping], scale: int) -> Tensor:
    frames = (gt * 255).round().byte().permute(0, 2, 3, 1).numpy()
    lq = degrade_clip(np.ascontiguousarray(frames), steps, rng, scale)
    return torch.from_numpy(np.ascontiguousarray(lq)).permute(0, 3, 1, 2).contiguous().float() / 255


def degrade_clip(frames: np.ndarray, steps: Sequence[Mapping], rng: np.random.Generator, scale: int) -> np.ndarray:
    """Make the low resolution of a clip.

    Args:
        frames: (t, h, w, 3) RGB uint8; h and w divisible by `scale`.
        steps: From `read_degradation`.
        rng: Decides everything.
        scale: s.

    Returns:
        (t, h / s, w / s, 3) RGB uint8. What the steps leave at another size is resized (`area`).

    Raises:
        InputError: A video encoder refuses the frames.
    """
    size = (frames.shape[1] // scale, frames.shape[2] // scale)
    clip = [frame.astype(np.float32) / 255 for frame in frames]
    with _numpy_seeded(int(rng.integers(2**32))):
        clip = apply_steps(clip, list(steps), rng, size)
    fitted = [
        frame if frame.shape[:2] == size else cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA)
        for frame in clip
    ]
    return np.rint(255 * np.stack(fitted)).clip(0, 255).astype(np.uint8)


@contextlib.contextmanager
def _numpy_seeded(seed: int) -> Iterator[None]:
    """Seed NumPy's global generator, which the toolbox's noise takes, and restore it afterwards."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def shrink_bicubic(frames: np.ndarray, scale: int) -> np.ndarray:
    """Shrink with MATLAB's antialiased bicubic, as the toolbox's `imresize` does, in two products of matrices.

    Args:
        frames: (t, h, w, 3), uint8 or float32; h and w divisible by `scale`.
        scale: Factor by which they shrink.

    Returns:
        (t, h / s, w / s, 3) of the same type. Of uint8, where `imresize` gives a value half-way between two, it may be
        either.
    """
    h, w = frames.shape[1:3]
    channels = np.ascontiguousarray(frames.transpose(0, 3, 1, 2), np.float32)
    rows, columns = (bicubic_matrix(length, length // scale).numpy() for length in (h, w))
    small = rows @ (channels @ columns.T)
    if frames.dtype == np.uint8:
        small = np.rint(small).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(small.transpose(0, 2, 3, 1))
