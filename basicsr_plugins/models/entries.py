"""Which network: read from the command line, from a list in a file, from option files; built with its weights."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from basicsr.archs import build_network
from basicsr.utils import get_root_logger
from torch import nn

from basicsr_plugins.archs.vsr_modules import FLOW_STARTS_UNTRAINED
from basicsr_plugins.compat.options import read_options, read_value
from basicsr_plugins.errors import InputError, check_keys, one_line
from basicsr_plugins.models.networks import check_network_options
from basicsr_plugins.models.shipped_weights import FLOW_FILES, find_weights, is_shipped
from basicsr_plugins.models.weights import load_weights, read_network, recognise

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
            for name in FLOW_FILES:
                options.pop(name, None)
        try:
            with torch.random.fork_rng(devices=[]), flow_brought_by(self.checkpoint):
                torch.manual_seed(0)
                net = build_network(options)
        except (TypeError, ValueError, AssertionError, OSError, RuntimeError, MemoryError) as error:
            # arguments that the network refuses, or that take more memory than there is
            raise InputError(f'{self.options["type"]} cannot be built: {one_line(error)}') from error
        if self.checkpoint is not None:
            load_weights(net, self.checkpoint, self.param_key)
        return net.eval()


@contextlib.contextmanager
def flow_brought_by(checkpoint: str | None) -> Iterator[None]:
    """Where there is a checkpoint, the flow network is not left untrained, and no warning says so."""

    def differs(record: logging.LogRecord) -> bool:
        return record.msg != FLOW_STARTS_UNTRAINED

    logger = get_root_logger()
    if checkpoint is not None:
        logger.addFilter(differs)
    try:
        yield
    finally:
        logger.removeFilter(differs)


def bicubic() -> NetworkEntry:
    """The first row of every table; its scale is the run's."""
    return NetworkEntry('Bicubic', {'type': 'Bicubic'})


def parse_network(text: str) -> NetworkEntry:
    """Read a network from the command line: `[NAME=]TYPE[:KEY=VALUE,...][@CHECKPOINT]`.

    For TYPE also an option file; or, alone, weights that say which network they are of.

    Raises:
        InputError: If it reads otherwise, or names a network, an argument or a file that is not there.
    """
    match = SPEC.fullmatch(text)
    if match is None:
        raise InputError(f'--network {text} must read TYPE:KEY=VALUE,KEY=VALUE@CHECKPOINT or FILE.yml@CHECKPOINT.')
    what = Path(match['what'])
    kind = {'.yml': 'options', '.yaml': 'options', '.pth': 'checkpoint', '.safetensors': 'checkpoint'}.get(what.suffix)
    if kind is None:
        kind = 'checkpoint' if is_shipped(what) else 'type'
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
    `name`, `checkpoint` (a file, or the name of shipped weights), `param_key`, `runtime`. No network is needed with a
    checkpoint that says which one it is of (see `read_entry`).

    Raises:
        InputError: If the file is missing, or an entry cannot be used.
    """
    content = read_options(path, str(path))
    check_keys(str(path), content, ['networks'])
    if not isinstance(content['networks'], list) or not all(isinstance(one, dict) for one in content['networks']):
        raise InputError(f'{path}: networks must be a list of networks.')
    return [read_entry(f'{path}: networks: {number}', one) for number, one in enumerate(content['networks'], 1)]


def read_entry(where: str, entry: Mapping) -> NetworkEntry:
    """A network from a mapping, as `read_network_list` describes it.

    A checkpoint alone says which network it is of by its metadata, by the option file that the toolbox has copied into
    its experiment's folder, or by its keys, in this order.

    Raises:
        InputError: Naming `where` and what cannot be used.
    """
    entry = dict(entry)
    name, checkpoint, param_key = (entry.pop(key, None) for key in ('name', 'checkpoint', 'param_key'))
    runtime = entry.pop('runtime', 'torch')
    if isinstance(checkpoint, str) and is_shipped(checkpoint):
        name, checkpoint = name or checkpoint, find_weights(checkpoint)
    if isinstance(checkpoint, str) and 'type' not in entry and 'options' not in entry:
        entry = {**_network_of(checkpoint, param_key), **entry}
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


def _network_of(checkpoint: str, param_key: str | None) -> dict:
    path = Path(find_weights(checkpoint))
    network = read_network(path)
    if network is not None:
        return network
    files = list(path.absolute().parent.parent.glob('*.yml')) if path.absolute().parent.name == 'models' else []
    return {'options': str(files[0])} if len(files) == 1 else recognise(path, param_key)


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
    return find_weights(named) if isinstance(named, str) and is_shipped(named) else named
