"""Which network: read from the command line, from a list in a file, from option files; built with its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from basicsr.archs import build_network
from torch import nn

from basicsr_plugins.compat.options import read_options, read_value
from basicsr_plugins.errors import InputError, check_keys, one_line
from basicsr_plugins.models.networks import check_network_options, load_weights

SPEC = re.compile(r'(?:(?P<name>[^=:@]+)=)?(?P<what>[^=:@]+)(?::(?P<arguments>[^@]*))?(?:@(?P<checkpoint>.+))?')


@dataclass
class NetworkEntry:
    """A network to compare, or to upscale with.

    Args:
        name: Its name in the table.
        options: `type` and arguments, as `network_g` in an option file.
        checkpoint: Its weights; None for random ones, which are the same each time.
        param_key: Which weights of the checkpoint; None for `params_ema`, else `params`.
        runtime: What runs it, where it is asked: `torch`, or another of `inference.runtimes`.
    """

    name: str
    options: dict = field(default_factory=dict)
    checkpoint: str | None = None
    param_key: str | None = None
    runtime: str = 'torch'

    def build(self) -> nn.Module:
        """The network with its weights, in eval mode, on the CPU.

        Raises:
            InputError: If the checkpoint does not fit.
        """
        options = dict(self.options)
        if self.checkpoint is not None:
            for name in ('spynet_path', 'edvr_path'):  # these weights are in the checkpoint too
                options.pop(name, None)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                net = build_network(options)
        except (TypeError, ValueError, AssertionError, OSError) as error:  # arguments that the network refuses
            raise InputError(f'{self.options["type"]} cannot be built: {one_line(error)}') from error
        if self.checkpoint is not None:
            load_weights(net, self.checkpoint, self.param_key)
        return net.eval()


def bicubic(scale: int) -> NetworkEntry:
    """The first row of every table."""
    return NetworkEntry('Bicubic', {'type': 'Bicubic', 'scale': scale})


def parse_network(text: str) -> NetworkEntry:
    """Read a network from the command line: `[NAME=]TYPE[:KEY=VALUE,...][@CHECKPOINT]`; for TYPE also an option file.

    Raises:
        InputError: If it reads otherwise, or names a network, an argument or a file that is not there.
    """
    match = SPEC.fullmatch(text)
    if match is None:
        raise InputError(f'--network {text} must read TYPE:KEY=VALUE,KEY=VALUE@CHECKPOINT or FILE.yml@CHECKPOINT.')
    kind = 'options' if match['what'].endswith(('.yml', '.yaml')) else 'type'
    entry = {**_parse_arguments(text, match['arguments'] or ''), kind: match['what']}
    if match['name']:
        entry['name'] = match['name']
    if match['checkpoint']:
        entry['checkpoint'] = match['checkpoint']
    return read_entry(f'--network {text}', entry)


def _parse_arguments(text: str, arguments: str) -> dict:
    """`a=1,b=[2, 3],c=null` -> a dict; values are YAML."""
    parsed = {}
    for part in re.split(r',(?![^\[]*\])', arguments):  # not at the commas of a list
        key, equals, value = part.partition('=')
        if part and not equals:
            raise InputError(f'--network {text}: {part!r} must read KEY=VALUE.')
        if part:
            parsed[key.strip()] = read_value(value, f'--network {text}')
    return parsed


def read_network_list(path: str | Path) -> list[NetworkEntry]:
    """Read a YAML file with a list `networks`.

    Each entry has `type` and arguments, or `options` (an option file) and arguments that differ from it, and may have
    `name`, `checkpoint`, `param_key`, `runtime`.

    Raises:
        InputError: If the file is missing, or an entry cannot be used.
    """
    content = read_options(path, str(path))
    check_keys(str(path), content, ['networks'])
    if not isinstance(content['networks'], list) or not all(isinstance(one, dict) for one in content['networks']):
        raise InputError(f'{path}: networks must be a list of networks.')
    return [read_entry(f'{path}: networks: {number}', one) for number, one in enumerate(content['networks'], 1)]


def read_entry(where: str, entry: Mapping) -> NetworkEntry:
    """A network from a mapping, as `read_network_list` describes it."""
    entry = dict(entry)
    name, checkpoint, param_key = (entry.pop(key, None) for key in ('name', 'checkpoint', 'param_key'))
    runtime = entry.pop('runtime', 'torch')
    if 'options' in entry:
        _check_text(where, 'options', entry['options'])
        opt = _read_option_file(entry.pop('options'))
        entry = {**opt['network_g'], **entry}  # other arguments than the file's
        checkpoint = checkpoint or _checkpoint_of(opt)
        param_key = param_key or opt['path'].get('param_key_g')
        name = name or opt.get('name')
    texts = {'type': entry.get('type', ''), 'runtime': runtime, 'checkpoint': checkpoint, 'param_key': param_key}
    for key, value in texts.items():
        _check_text(where, key, value, optional=key in ('checkpoint', 'param_key'))
    check_network_options(where, entry)
    name = name or (entry['type'] if runtime == 'torch' else f'{entry["type"]} ({runtime})')
    return NetworkEntry(str(name), entry, checkpoint, param_key, runtime)


def _check_text(where: str, key: str, value: object, optional: bool = False) -> None:
    if not isinstance(value, str) and not (optional and value is None):
        raise InputError(f'{where}: {key} must be a text, but is {value!r}.')


def _read_option_file(path: str) -> dict:
    """An option file, of which `network_g` and `path` are sure to be mappings."""
    opt = read_options(path, str(path))
    opt['path'] = opt.get('path') or {}
    for key in ('network_g', 'path'):
        if not isinstance(opt.get(key), dict):
            raise InputError(f'{path}: the section {key!r} is missing, or is no mapping.')
    return opt


def _checkpoint_of(opt: Mapping) -> str | None:
    """The checkpoint that an option file's training has left, else the one that it names.

    What an option file for tests names counts alone; in one for training it is what training starts from.
    """
    trained = Path('experiments') / str(opt.get('name')) / 'models' / 'net_g_latest.pth'
    named = opt['path'].get('pretrain_network_g')
    if trained.is_file() and ('train' in opt or not named):
        return str(trained)
    return named
