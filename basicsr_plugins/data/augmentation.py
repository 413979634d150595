"""Flips and rotation of training samples, which travel as uint8 and become floats on the device.

The choice is made in the dataset, with the sample's seed. It is applied by the dataset itself, or by the model
(`to_device_samples`), so that a quarter of the bytes has to be moved. Both give the toolbox's very values.

Shape shorthand: b samples, t frames, h and w height and width of a patch.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

import torch
from torch import Tensor

FRAMES = ('lq', 'gt')


def choose_flips(hflip: bool, rotation: bool) -> str:
    """What the toolbox's `augment` chooses with the same state of `random`.

    Args:
        hflip: Whether to flip from left to right, in half of the cases.
        rotation: Whether to flip upside down, and to transpose, each in half of the cases.

    Returns:
        The letters of what is to be done, in this order: `h` and `v` flip, `t` transposes. As text they stay where they
        are when a prefetcher moves a batch to the device, so that reading them does not wait for it.
    """
    h = hflip and random.random() < 0.5
    v = rotation and random.random() < 0.5
    t = rotation and random.random() < 0.5
    return 'h' * h + 'v' * v + 't' * t


def to_floats(patches: Tensor, flips: str, out: Tensor | None = None) -> Tensor:
    """Flip and scale patches, on the device they are on.

    Args:
        patches: (..., h, w), uint8.
        flips: From `choose_flips`.
        out: Where to write the result; default: a new tensor.

    Returns:
        (..., h, w), or (..., w, h) where transposed: float32 in [0, 1].
    """
    dims = [dim for letter, dim in (('h', -1), ('v', -2)) if letter in flips]
    if dims:
        patches = patches.flip(dims)
    if 't' in flips:
        patches = patches.transpose(-1, -2).contiguous()  # moved while it is small
    out = torch.empty(patches.shape, device=patches.device) if out is None else out
    out.copy_(patches)
    # by a tensor: CUDA multiplies by the rounded reciprocal of a number, whose last bit differs
    return out.div_(torch.full((), 255.0, device=out.device))


def to_device_samples(batch: Mapping, device: torch.device | str) -> dict:
    """A batch of the loader with its frames on the device, flipped, as floats.

    Args:
        batch: `lq` and `gt`: (b, t, 3, h, w), squares; as uint8 with `flips`, b texts, they are flipped and scaled;
            floats are only moved. `gt` may be missing.
        device: Where the network is.

    Returns:
        The same keys without `flips`, with float32 in [0, 1].
    """
    moved = {key: value for key, value in batch.items() if key != 'flips'}
    for key in FRAMES:
        if key not in batch:
            continue
        frames = batch[key].to(device, non_blocking=True)
        if frames.dtype == torch.uint8 and 'flips' in batch:
            floats = torch.empty(frames.shape, device=frames.device)
            for sample, flips, out in zip(frames, batch['flips'], floats):
                to_floats(sample, flips, out)
            frames = floats
        moved[key] = frames
    return moved
