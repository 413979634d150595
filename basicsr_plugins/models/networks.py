"""Check what an option file says of a network, and save its training."""

from __future__ import annotations

import errno
import functools
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from basicsr_plugins.errors import RunError, one_line
from basicsr_plugins.files import write_atomically
from basicsr_plugins.option_file import NETWORK


def check_network_options(where: str, options: Mapping) -> None:
    """Refuse an unknown network, arguments that it does not have, and values of another type or beyond their range.

    Raises:
        InputError: Naming `where`, the argument and, for an unknown one, the nearest valid one.
    """
    NETWORK.check(options, (where,))


def save_checkpoint(content: dict, path: str | os.PathLike) -> None:
    """`torch.save` a file that is whole or as it was before.

    Raises:
        RunError: If it cannot be written; of a full disk, where that is and how much it takes.
    """
    try:
        write_atomically(path, functools.partial(torch.save, content))
    except Exception as error:  # of the disk, or torch's own
        folder = Path(path).parent
        size = _bytes_of(content)
        free = shutil.disk_usage(folder).free if folder.is_dir() else size
        if free < size or getattr(error, 'errno', None) in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(
                f'cannot save {path}: it takes {size / 2**20:.1f} MiB, but the disk of {folder} is full ('
                f'{free / 2**20:.1f} MiB are free); make room and go on by --auto_resume.'
            ) from error
        raise RunError(f'cannot save {path} ({one_line(error)}); the run stops here.') from error


def _bytes_of(content: object) -> int:
    """What the tensors of a checkpoint take."""
    if isinstance(content, torch.Tensor):
        return content.numel() * content.element_size()
    parts = content.values() if isinstance(content, Mapping) else content if isinstance(content, (list, tuple)) else ()
    return sum(map(_bytes_of, parts))
