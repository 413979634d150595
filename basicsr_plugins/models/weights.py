"""Read trained weights: files of the toolbox, of this package and of other code, into the networks that are here."""

from __future__ import annotations

import functools
import inspect
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from basicsr_plugins.errors import InputError, one_line
from basicsr_plugins.files import check_checksums
from basicsr_plugins.models.weight_formats import ARGUMENTS, FORMATS

CONTAINERS = ('params_ema', 'params', 'state_dict')  # keys of a checkpoint that hold weights
PREFIXES = ('generator_ema.', 'generator.')  # of the network among others; the rest is dropped
WRAPPERS = ('module.', 'net_g.')  # before every key
CONSTANTS = re.compile(r'(?:^|\.)spynet\.(?:mean|std)$')  # a file without them is complete


def load_weights(net: nn.Module, path: str | os.PathLike, param_key: str | None = None) -> None:
    """Load a file of weights, whichever code wrote it, as data only.

    Args:
        net: The network.
        path: A checkpoint (.pth) or a .safetensors file.
        param_key: Which weights of it; default: `params_ema` where they are there, else `params` or `state_dict`.

    Raises:
        InputError: As `read_weights`, or if they are another network's; the message names the first key that differs.
    """
    weights = read_weights(path, param_key)
    wanted = net.state_dict()
    renamed = min((one.rename(weights) for one in FORMATS), key=lambda names: _distance(wanted, names))
    problem = _difference(wanted, renamed)
    if problem:
        raise InputError(f'{path} does not fit {type(net).__name__}: {problem}.')
    net.load_state_dict({**wanted, **renamed})


def recognise(path: str | os.PathLike, param_key: str | None = None) -> dict:
    """Which network a file of weights is of, by the names and the shapes.

    Args:
        path, param_key: As in `load_weights`.

    Returns:
        `type` and arguments, as `network_g` in an option file.

    Raises:
        InputError: As `read_weights`, or if no known network has such weights; the message names the nearest one and
            the first key that differs.
    """
    weights = read_weights(path, param_key)
    misfits, others = [], []
    for form in FORMATS:
        renamed = form.rename(weights)
        for name in form.networks:
            try:
                options = {**ARGUMENTS[name](renamed), **form.implied(weights)}
                wanted = _names_and_shapes(name, options)
            except (LookupError, ArithmeticError, ValueError, TypeError, RuntimeError):  # a layer lacks, or is no such
                others.append((form, name, renamed))
                continue
            if _difference(wanted, renamed) is None:
                return {'type': name, **options}
            misfits.append((form, name, renamed, wanted))
    misfits += [(form, name, renamed, _of_usual_size(name)) for form, name, renamed in others]
    form, name, renamed, wanted = min(misfits, key=lambda one: _distance(one[3], one[2]))
    raise InputError(
        f'{path}: which network is it? Its keys are nearest to {name} of {form.name}, but '
        f'{_difference(wanted, renamed)}; name the network (TYPE:KEY=VALUE, or an option file).'
    )


@functools.cache
def _of_usual_size(name: str) -> dict[str, Tensor]:
    return _names_and_shapes(name, {'num_in_ch': 3, 'num_out_ch': 3} if name in ('RRDBNet', 'EDSR', 'RCAN') else {})


def _names_and_shapes(name: str, options: dict) -> dict[str, Tensor]:
    """The state dict of a network, without values."""
    with torch.device('meta'):
        return ARCH_REGISTRY.get(name)(**options).state_dict()


# ---------------------------------------------------------------------------- files


def read_weights(path: str | os.PathLike, param_key: str | None = None) -> dict[str, Tensor]:
    """The weights that a file holds for one network, under its own names.

    Raises:
        InputError: If the file is missing or damaged, holds anything but data, no weights, or values that are not
            finite; the message names the first key that is wrong.
    """
    if not Path(path).is_file():
        raise InputError(f'there is no checkpoint {path}.')
    weights = _choose(_read(path), path, param_key)
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            raise InputError(f'{path}: {name} is {type(value).__name__} in it, and no tensor.')
        if value.is_quantized or value.is_complex() or value.layout != torch.strided:
            raise InputError(f'{path}: {name} is {value.dtype}, {value.layout} in it, and no plain tensor.')
        if not value.float().isfinite().all():
            raise InputError(f'{path}: {name} has values that are NaN or infinite; take a checkpoint of before.')
    return weights


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """What a .safetensors file says of itself; nothing of other files.

    Raises:
        InputError: If it is missing or damaged.
    """
    if Path(path).suffix != '.safetensors':
        return {}
    if not Path(path).is_file():
        raise InputError(f'there is no checkpoint {path}.')
    try:
        with safetensors.safe_open(path, 'pt') as file:
            return file.metadata() or {}
    except Exception as error:  # the library's own
        raise InputError(f'{path} is damaged ({one_line(error)[:150]}); take another copy.') from error


def read_network(path: str | os.PathLike) -> dict | None:
    """The network that a .safetensors file names itself, as `network_g` in an option file; None where it does not.

    Raises:
        InputError: If what it says cannot be read.
    """
    text = read_metadata(path).get('network')
    if text is None:
        return None
    try:
        network = json.loads(text)
    except ValueError:
        network = None
    if not isinstance(network, dict) or not isinstance(network.get('type'), str):
        raise InputError(f'{path}: what it says of its network is no mapping with a type: {text[:100]}.')
    return network


def describe_other_arguments(path: str | os.PathLike, options: Mapping) -> str:
    """What a .safetensors file's network was built with and another of its type is not, like `flow: pyramid`.

    Args:
        path: The file.
        options: The other network, as `network_g` in an option file.

    Raises:
        InputError: As `read_network`.
    """
    network = read_network(path)
    if network is None or network['type'] != options['type']:
        return ''
    parameters = inspect.signature(ARCH_REGISTRY.get(options['type'])).parameters
    has = {**{name: parameter.default for name, parameter in parameters.items()}, **options}
    return ', '.join(f'{name}: {json.dumps(value)}' for name, value in network.items() if has.get(name) != value)


def _read(path: str | os.PathLike) -> object:
    try:
        if Path(path).suffix == '.safetensors':
            return safetensors.torch.load_file(path)
        check_checksums(path)
        return torch.load(path, map_location='cpu', weights_only=True)
    except InputError:
        raise
    except Exception as error:  # whatever the readers raise on another file
        raise InputError(f'{path} is not a checkpoint that holds only weights ({one_line(error)[:150]}).') from error


def _choose(content: object, path: str | os.PathLike, param_key: str | None) -> dict:
    """The weights among what a checkpoint holds, without what was put before their names."""
    content = content if isinstance(content, dict) else {}
    keys = CONTAINERS if param_key is None else (param_key,)
    weights = next((content[key] for key in keys if isinstance(content.get(key), dict)), None)
    if weights is None and param_key is not None:
        held = ', '.join(map(str, content))[:100]
        raise InputError(f'{path} holds no weights under {param_key!r}; it holds {held}.')
    if weights is None and all(isinstance(value, Tensor) for value in content.values()):
        weights = content
    if not weights:
        raise InputError(f'{path} holds no weights under {" or ".join(CONTAINERS)}, and is no state dict itself.')
    weights = {str(name): value for name, value in weights.items()}
    for prefix in PREFIXES:
        if any(name.startswith(prefix) for name in weights):
            return {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}
    for prefix in WRAPPERS:
        if all(name.startswith(prefix) for name in weights):
            weights = {name[len(prefix) :]: value for name, value in weights.items()}
    return weights


# ---------------------------------------------------------------------------- comparing


def _difference(wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str | None:
    """The first key that differs, as a part of a sentence."""
    for name in (*wanted, *weights):
        if name not in weights:
            if CONSTANTS.search(name) is None:
                return f'it lacks {name}'
        elif name not in wanted:
            return f'the network has no {name}'
        elif wanted[name].shape != weights[name].shape:
            shapes = tuple(weights[name].shape), tuple(wanted[name].shape)
            return f'{name} is {shapes[0]} in it, but {shapes[1]} in the network'
    return None


def _distance(wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> float:
    """The part of the names that only one of them has."""
    return len(wanted.keys() ^ weights.keys()) / len(wanted.keys() | weights.keys())
