"""Weights that come with the package, each a file that says itself which network it is of.

`weights/NAME.safetensors` holds parameters in float16 and, in its metadata, `network` (as `network_g` in an option
file, JSON), `scale`, `licence` and `training` (a sentence). `weights/index.json` adds, by name, what they are made for
and numbers that were measured with them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from basicsr.archs import build_network
from torch import Tensor

from basicsr_plugins.errors import InputError, check_keys, one_line, suggest
from basicsr_plugins.files import write_atomically
from basicsr_plugins.models.network_spec import spec_of
from basicsr_plugins.models.networks import check_network_options
from basicsr_plugins.models.weights import read_metadata, read_network

FOLDER = Path(__file__).resolve().parent.parent / 'weights'
MAX_SIZE = 6_000_000  # bytes
FLOW_FILES = ('spynet_path', 'edvr_path')  # arguments that name other files of weights; a checkpoint holds those too


@dataclass(frozen=True)
class ShippedWeights:
    """Weights that come with the package.

    Args:
        path: The file.
        network: As `network_g` in an option file.
        scale: Upscaling factor.
        licence: Its name.
        training: What they were trained on, and how long.
        made_for: Frames that they are best at.
        numbers: What was measured: name -> value.
    """

    path: Path
    network: dict
    scale: int
    licence: str
    training: str
    made_for: str
    numbers: dict

    @property
    def size(self) -> int:
        """Of the file, in bytes."""
        return self.path.stat().st_size


def list_shipped(folder: Path | None = None) -> dict[str, ShippedWeights]:
    """The weights that are there, by name.

    Args:
        folder: Where; default: the package's own.
    """
    folder = folder or FOLDER
    index = folder / 'index.json'
    notes = json.loads(index.read_text(encoding='utf-8')) if index.is_file() else {}
    shipped = {}
    for path in sorted(folder.glob('*.safetensors')):
        said, more = read_metadata(path), notes.get(path.stem, {})
        shipped[path.stem] = ShippedWeights(
            path,
            read_network(path),
            int(said['scale']),
            said['licence'],
            said['training'],
            more.get('made_for', ''),
            more.get('numbers', {}),
        )
    return shipped


def is_shipped(name: str | os.PathLike) -> bool:
    """Whether shipped weights have this name."""
    return Path(name).name == str(name) and (FOLDER / f'{name}.safetensors').is_file()


def find_weights(name: str | os.PathLike) -> str:
    """The path of shipped weights, by their name; any other text is a path already.

    Raises:
        InputError: If it is neither a name nor a file.
    """
    if is_shipped(name):
        return str(FOLDER / f'{name}.safetensors')
    if Path(name).is_file():
        return str(name)
    shipped = list_shipped()
    hint = f', and no shipped weights have that name; {suggest(name, shipped)}' if shipped else '.'
    raise InputError(f'there is no checkpoint {name}{hint}')


def save_shipped(
    net_options: Mapping, state_dict: Mapping[str, Tensor], path: str | os.PathLike, metadata: Mapping[str, str]
) -> None:
    """Write weights as they are shipped: float16, with all that is needed to use them.

    Args:
        net_options: The network, as `network_g` in an option file.
        state_dict: Its weights.
        path: The file, NAME.safetensors.
        metadata: `licence` and `training`, texts; others may be added.

    Raises:
        InputError: If the weights are not the network's, do not fit float16, or make a file of more than `MAX_SIZE`.
        OSError: If the file cannot be written.
    """
    check_keys(f'metadata of {path}', metadata, ['licence', 'training'], metadata)
    options = {key: value for key, value in net_options.items() if key not in FLOW_FILES}
    check_network_options(str(path), options)
    net = build_network(dict(options))
    try:
        net.load_state_dict(state_dict)
    except RuntimeError as error:
        raise InputError(
            f'{path}: the weights are not those of {options["type"]} ({one_line(error)[:200]}).'
        ) from error
    parameters = dict(net.named_parameters())
    halves = {}
    for name, value in net.state_dict().items():
        halves[name] = value.to(torch.float16) if name in parameters else value
        if not halves[name].isfinite().all():
            raise InputError(f'{path}: {name} has values that are NaN or too large for float16.')
    said = {**metadata, 'network': json.dumps(options), 'scale': str(spec_of(net).scale)}
    content = safetensors.torch.save({name: value.contiguous() for name, value in halves.items()}, said)
    if len(content) > MAX_SIZE:
        raise InputError(f'{path} would have {len(content)} bytes; shipped weights have {MAX_SIZE} at most.')
    write_atomically(path, content)
