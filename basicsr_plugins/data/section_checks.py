"""What the keys of a dataset's section, each possible, must agree on; checked before any work, and by the dataset."""

from __future__ import annotations

from collections.abc import Mapping

from basicsr_plugins.data.any_scale import patch_scale
from basicsr_plugins.data.clips import ClipReader
from basicsr_plugins.data.degradation import lq_maker
from basicsr_plugins.errors import InputError
from basicsr_plugins.option_schema import located


def check_sources(where: str, opt: Mapping) -> None:
    """Check that a dataset has LQ frames, or GT and a `degradation` that makes them, not both, and that they are there.

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
    for key in ('dataroot_gt', 'dataroot_lq'):
        if opt.get(key) is not None:
            with located(key):
                ClipReader(opt[key], opt['io_backend'], f'{where}: {key}')


def check_patches(where: str, opt: Mapping) -> None:
    """Check that patches of LQ and GT can be cut alike, and that `degradation` is one.

    Raises:
        OptionError: Naming the key.
    """
    scale, gt_size = patch_scale(where, opt['scale']), opt['gt_size']
    if gt_size < scale or gt_size % scale:
        with located('gt_size'):
            raise InputError(f'{where}: gt_size ({gt_size}) must be a multiple of scale ({scale}).')
    if opt.get('degradation') is not None:
        with located('degradation'):
            lq_maker(where, opt['degradation'], scale)
