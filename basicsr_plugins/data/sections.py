"""What datasets make of the keys of their sections that must agree; what does not is refused with its key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from torch import Tensor

from basicsr_plugins.data.any_scale import BICUBIC, patch_scale
from basicsr_plugins.data.clips import ClipReader
from basicsr_plugins.data.degradation import lq_maker
from basicsr_plugins.errors import InputError
from basicsr_plugins.option_schema import located


def open_sources(where: str, opt: Mapping) -> tuple[ClipReader | None, ClipReader | None]:
    """Readers of the LQ and of the GT frames; None of those that there are not.

    A dataset has LQ frames, or GT and a `degradation` that makes them, and not both.

    Args:
        where: Name of the section, for messages.
        opt: The section.

    Raises:
        OptionError: Naming the key that is missing, too much or not what it should be.
    """
    degraded = opt.get('degradation') is not None
    if degraded and opt.get('dataroot_lq') is not None:
        with located('dataroot_lq'):
            raise InputError(
                f'{where}: degradation makes the LQ frames of the GT; leave dataroot_lq or degradation out.'
            )
    needed = 'dataroot_gt' if degraded else 'dataroot_lq'
    if opt.get(needed) is None:
        raise InputError(f'{where}: the key {needed!r} is missing.')
    lq, gt = (_open(where, opt, key) for key in ('dataroot_lq', 'dataroot_gt'))
    return lq, gt


def _open(where: str, opt: Mapping, key: str) -> ClipReader | None:
    if opt.get(key) is None:
        return None
    with located(key):
        return ClipReader(opt[key], opt['io_backend'], f'{where}: {key}')


def read_patches(where: str, opt: Mapping) -> tuple[int, Callable[..., Tensor] | None]:
    """The scale at which patches of LQ and GT can be cut alike, and what makes LQ of them; None without `degradation`.

    Raises:
        OptionError: Naming the key.
    """
    scale, gt_size, make_lq = patch_scale(where, opt['scale']), opt['gt_size'], None
    if gt_size < scale or gt_size % scale:
        with located('gt_size'):
            raise InputError(f'{where}: gt_size ({gt_size}) must be a multiple of scale ({scale}).')
    prob = opt.get('degradation_prob', 1)
    if opt.get('degradation') is not None:
        with located('degradation'):
            make_lq = lq_maker(where, opt['degradation'], scale)
        if prob < 1:
            make_lq = partial(_degrade_some, prob, make_lq, lq_maker(where, BICUBIC[0], scale))
    elif prob < 1:
        with located('degradation_prob'):
            raise InputError(f'{where}: degradation_prob needs degradation, which is missing.')
    return scale, make_lq


def _degrade_some(
    prob: float, degrade: Callable[..., Tensor], shrink: Callable[..., Tensor], gt: Tensor, rng: np.random.Generator
) -> Tensor:
    return degrade(gt, rng) if rng.random() < prob else shrink(gt, rng).mul(255).round().clamp(0, 255).div(255)
