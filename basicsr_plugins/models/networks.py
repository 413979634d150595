"""Check what an option file says of a network, and save its training."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping

import torch

from basicsr_plugins.errors import one_line
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
        OSError: If it cannot be written; the message names it.
    """
    try:
        write_atomically(path, functools.partial(torch.save, content))
    except Exception as error:  # of the disk, or torch's own
        raise OSError(f'cannot save {path} ({one_line(error)}); the run stops here.') from error
