"""Check what an option file says of a network, and read trained weights into it."""

from __future__ import annotations

import errno
import functools
import os
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from basicsr_plugins.errors import InputError, RunError, one_line
from basicsr_plugins.files import write_atomically
from basicsr_plugins.option_file import NETWORK

PARAM_KEYS = ('params_ema', 'params')


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


def load_weights(net: nn.Module, path: str | os.PathLike, param_key: str | None = None) -> None:
    """Load a checkpoint of the toolbox's format, or a bare state dict, as data only.

    Args:
        net: The network.
        path: The file.
        param_key: Which weights of it; default: `params_ema` where they are there, else `params`.

    Raises:
        InputError: If the file is missing or damaged, is no state dict, holds another network's weights, or values that
            are not finite; the message names the first key that is wrong.
    """
    if not Path(path).is_file():
        raise InputError(f'there is no checkpoint {path}.')
    _check_checksums(path)
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # whatever torch's readers raise on another file
        raise InputError(f'{path} is not a checkpoint that holds only weights ({one_line(error)[:150]}).') from error
    weights = _choose(content, path, param_key)
    weights = {name[7:] if str(name).startswith('module.') else name: value for name, value in weights.items()}
    wanted = net.state_dict()
    for name in (*wanted, *weights):
        problem = _difference(name, wanted, weights)
        if problem:
            raise InputError(f'{path} does not fit {type(net).__name__}: {problem}.')
        if not weights[name].isfinite().all():
            raise InputError(f'{path}: {name} has values that are NaN or infinite; take a checkpoint of before.')
    net.load_state_dict(weights)


def _check_checksums(path: str | os.PathLike) -> None:
    """Refuse a damaged file of `torch.save`, a ZIP archive, of which PyTorch does not compare the checksums."""
    if not zipfile.is_zipfile(path):
        return  # of PyTorch before 1.6, which has none
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # whatever a damaged directory makes zipfile raise
        raise InputError(f'{path} is damaged ({one_line(error)[:150]}); take another copy.') from error
    if damaged is not None:
        raise InputError(f'{path} is damaged ({damaged} in it has another checksum); take another copy.')


def _choose(content: object, path: str | os.PathLike, param_key: str | None) -> dict:
    keys = PARAM_KEYS if param_key is None else (param_key,)
    weights = content if isinstance(content, dict) else {}
    for key in keys:
        if isinstance(weights.get(key), dict):
            return weights[key]
    if param_key is not None:
        raise InputError(f'{path} holds no weights under {param_key!r}; it holds {", ".join(map(str, weights))[:100]}.')
    if not weights or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise InputError(f'{path} holds no weights under params_ema or params, and is no state dict itself.')
    return weights


def _difference(name: str, wanted: dict, weights: dict) -> str | None:
    if name not in weights:
        return f'it lacks {name}'
    if name not in wanted:
        return f'the network has no {name}'
    value = weights[name]
    if not isinstance(value, torch.Tensor):
        return f'{name} is {type(value).__name__} in it, and no tensor'
    if wanted[name].shape != value.shape:
        return f'{name} is {tuple(value.shape)} in it, but {tuple(wanted[name].shape)} in the network'
    if value.is_quantized or value.is_complex() or value.layout != torch.strided:
        return f'{name} is {value.dtype}, {value.layout} in it, and no plain tensor'
    return None
