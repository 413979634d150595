"""Option files: read as data, checked at start, output under the folder that the user is in."""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import torch
import yaml
from basicsr.utils import misc, options

from basicsr_plugins.compat.rebind import wrap
from basicsr_plugins.errors import InputError, one_line
from basicsr_plugins.option_schema import OptionError

MOST_BYTES = 2**20
MOST_VALUES = 100_000  # of a file, with what its aliases stand for


class SafeOptionLoader(getattr(yaml, 'CSafeLoader', yaml.SafeLoader)):
    """YAML loader for option files: ordered mappings, plain data only, `1e-4` is a number, and so is `8/3`.

    A key that stands twice in a section is refused, and so are aliases that stand for too much, or for themselves.
    """

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _check_node(node, {})
        return node

    def construct_fraction(self, node: yaml.ScalarNode) -> Fraction:
        return Fraction(node.value)

    def construct_ordered_mapping(self, node: yaml.MappingNode) -> OrderedDict:
        self.flatten_mapping(node)
        return OrderedDict(self.construct_pairs(node))


SafeOptionLoader.add_constructor(
    yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, SafeOptionLoader.construct_ordered_mapping
)
# YAML 1.1 wants a dot in a float, so that `lr: 4e-4` would be a string; everybody who writes it means the number.
SafeOptionLoader.add_implicit_resolver(
    'tag:yaml.org,2002:float', re.compile(r'^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$'), list('-+0123456789')
)
SafeOptionLoader.add_implicit_resolver('!fraction', re.compile(r'^[1-9][0-9]{0,9}/[1-9][0-9]{0,9}$'), list('123456789'))
SafeOptionLoader.add_constructor('!fraction', SafeOptionLoader.construct_fraction)


def safe_yaml() -> None:
    """Read option files with a loader that builds plain data only.

    BasicSR 1.4.2 reads them with PyYAML's `CLoader`, in every version, which runs code on tags like
    `!!python/object/apply:os.system`. The toolbox's number formats (`!!float 1e-4`) read as before.
    """

    def make(original):
        def ordered_yaml():
            _, dumper = original()
            return SafeOptionLoader, dumper

        return ordered_yaml

    wrap(options, 'ordered_yaml', make)


def parse_options() -> None:
    """Check the option file at start and keep output out of site-packages.

    `python -m basicsr.train` takes the parent of the installed package as its root, in every version, so experiments,
    results and tb_logger land in site-packages; here the root is then the current folder. Options that a run is sure to
    fail at, or to ignore, and `num_gpu` above 0 where there is no CUDA, stop with one sentence before any work; BasicSR
    checks none, in every version.
    """

    def make(original):
        def parse(root_path, is_train=True):
            _check_options(is_train)
            opt, args = original(str(output_root(root_path)), is_train=is_train)
            if opt['num_gpu'] != 0 and not torch.cuda.is_available():
                raise InputError(
                    f'num_gpu: {opt["num_gpu"]} is asked for, but PyTorch sees no CUDA device; say 0 (or auto).'
                )
            _rebind_entry_script()
            if is_train:
                _multiply_batch(opt)
                _prefer_uint8(opt)
            return opt, args

        return parse

    wrap(options, 'parse_options', make)


def make_exp_dirs() -> None:
    """Ask datasets and networks whether they can be built with the options before there is a folder of the run.

    BasicSR finds out when it has moved an older experiment of that name away, in every version.
    """

    def make(original):
        def make_dirs(opt):
            from basicsr_plugins.option_file import check_parts  # may itself be what imports BasicSR

            with _with_place():
                check_parts(opt)
            original(opt)

        return make_dirs

    wrap(misc, 'make_exp_dirs', make)


def _multiply_batch(opt: dict) -> None:
    """Let a model that computes a batch in parts, `train: accumulate`, get that many times as many samples."""
    from basicsr_plugins.option_file import MODEL_REGISTRY, registered  # may itself be what imports BasicSR

    declared = getattr(registered(MODEL_REGISTRY)[opt['model_type']], 'option_keys', {})
    if 'accumulate' in declared.get('train', {}):
        opt['datasets']['train']['batch_size_per_gpu'] *= opt['train'].get('accumulate', 1)


def _prefer_uint8(opt: dict) -> None:
    """Let samples stay uint8 until they are on the device, a quarter of the data, where the model makes them floats."""
    from basicsr_plugins.option_file import DATASET_REGISTRY, MODEL_REGISTRY, registered

    section = opt['datasets']['train']
    dataset = registered(DATASET_REGISTRY).get(section['type'])
    model = registered(MODEL_REGISTRY)[opt['model_type']]
    if getattr(model, 'takes_uint8', False) and 'uint8' in getattr(dataset, 'option_keys', {}):
        section.setdefault('uint8', all(section.get(key) is None for key in ('degradation', 'scale_range')))


def output_root(root_path: str | os.PathLike) -> Path:
    """Where experiments, results and tb_logger go.

    `root_path`, the parent of the toolbox's package, is right for a script in a checkout; for `python -m basicsr.train`
    and `python -m basicsr.test`, wherever the package is installed, it is the current folder.
    """
    root_path = Path(root_path)
    spec = getattr(sys.modules['__main__'], '__spec__', None)
    as_module = spec is not None and spec.name in ('basicsr.train', 'basicsr.test')
    return Path.cwd() if as_module or root_path.name in ('site-packages', 'dist-packages') else root_path


def read_options(path: str | os.PathLike, where: str) -> dict:
    """Read an option file as plain data.

    Args:
        path: The YAML file.
        where: What messages call it.

    Raises:
        InputError: If it cannot be read, is not YAML, holds anything but plain data, or no options.
    """
    try:
        with open(path, encoding='utf-8') as file:
            text = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f'{where}: {error.strerror}.') from error
    except UnicodeDecodeError as error:
        raise InputError(f'{where} is not a YAML file of plain data: {one_line(error)}') from error
    if len(text) > MOST_BYTES:
        raise InputError(f'{where} is larger than an option file can be, {MOST_BYTES} bytes.')
    stream = io.StringIO(text)
    stream.name = str(path)  # for messages
    try:
        opt = yaml.load(stream, Loader=SafeOptionLoader)
    except InputError:
        raise
    except Exception as error:  # YAMLError, and whatever the tags' readers raise on texts that do not fit them
        raise InputError(f'{where} is not a YAML file of plain data: {one_line(error)}') from error
    if not isinstance(opt, dict):
        raise InputError(f'{where} holds no options.')
    return opt


def read_value(text: str, where: str) -> object:
    """One value, as it would stand in an option file.

    Raises:
        InputError: If it is not YAML, or not plain data; `where` begins the message.
    """
    try:
        return yaml.load(text, Loader=SafeOptionLoader)
    except Exception as error:  # YAMLError, and whatever the tags' readers raise on texts that do not fit them
        raise InputError(f'{where}: {text!r} is not a value in YAML.') from error


def _check_node(node: yaml.Node, counts: dict) -> int:
    """The number of values below a node, each alias counted anew; `counts` keeps those of the nodes already seen.

    Raises:
        InputError: If a key stands twice or is no text, or the aliases expand without end.
    """
    if id(node) in counts:
        if counts[id(node)] is None:
            raise InputError(f'{_place(node)}: an alias stands for a section that it is in.')
        return counts[id(node)]
    counts[id(node)] = None
    below = []
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or not key.tag.endswith((':str', ':merge')):
                raise InputError(f'{_place(key)}: a key must be a text.')
            if key.value in seen:
                raise InputError(f'{_place(key)}: the key {key.value!r} stands twice in its section.')
            seen.add(key.value)
            below.append(value)
    elif isinstance(node, yaml.SequenceNode):
        below = node.value
    counts[id(node)] = 1 + sum(_check_node(value, counts) for value in below)
    if counts[id(node)] > MOST_VALUES:
        raise InputError(f'{_place(node)}: with its aliases this is more than {MOST_VALUES} values.')
    return counts[id(node)]


def _place(node: yaml.Node) -> str:
    return f'{node.start_mark.name}:{node.start_mark.line + 1}'


def _check_options(is_train: bool) -> None:
    """Check the option file, with what `--force_yml` changes in it, before the toolbox reads it.

    Raises:
        InputError: One sentence, which begins with the file and the line, or with the argument, that is wrong.
    """
    arguments = _arguments()
    if arguments.opt is None:
        return  # the toolbox's parser says so
    from basicsr_plugins.option_file import check_option_file  # may itself be what imports BasicSR, and so this module

    if sum(argument.startswith('--force_yml') for argument in sys.argv) > 1:
        raise InputError('--force_yml stands twice, and only the last would count; write all entries after one.')
    opt = read_options(arguments.opt, f'-opt {arguments.opt}')
    for entry in arguments.force_yml:
        _force(opt, entry)
    with _with_place():
        check_option_file(opt, is_train)
        if is_train and (arguments.debug or 'debug' in opt['name']) and opt.get('val', {}) is None:
            raise OptionError('val is empty, but the debug mode sets a key of it; leave it out.', ('val',))


def _arguments() -> argparse.Namespace:
    """What the toolbox's scripts are given that says where options come from."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument('-opt')
    parser.add_argument('--debug', action='store_true')
    parser.add_argument('--force_yml', nargs='+', default=[])
    return parser.parse_known_args()[0]


@contextmanager
def _with_place() -> Iterator[None]:
    """Begin what is said of a wrong option with `FILE:LINE: `, or with the argument that set it."""
    try:
        yield
    except OptionError as error:
        arguments = _arguments()
        if arguments.opt is None:
            raise
        forced = [entry for entry in arguments.force_yml if _forced_path(entry) == error.path]
        place = f'--force_yml {forced[0]}' if forced else _line_of(arguments.opt, error.path)
        raise InputError(f'{place}: {error}') from error


def _forced_path(entry: str) -> tuple[str, ...]:
    return tuple(key.strip() for key in entry.partition('=')[0].split(':'))


def _force(opt: dict, entry: str) -> None:
    """Change an option as `--force_yml SECTION:KEY=VALUE` says."""
    _, equals, value = entry.partition('=')
    *sections, last = _forced_path(entry)
    for name in sections:
        opt = opt.get(name) if isinstance(opt, dict) else None
    if not equals or '=' in value or not isinstance(opt, dict):
        raise InputError(f'--force_yml {entry} must read SECTION:KEY=VALUE, with a section that is in the option file.')
    opt[last] = options._postprocess_yml_value(value.strip())


def _line_of(file: str, path: Sequence[str]) -> str:
    """`FILE:LINE` of a key, or of the innermost section around it that is there."""
    with open(file, encoding='utf-8') as stream:
        node = yaml.compose(stream, Loader=SafeOptionLoader)
    place = file
    for name in path:
        found = _find(node, name)
        if found is None:
            break
        place, node = f'{file}:{found[0].start_mark.line + 1}', found[1]
    return place


def _find(node: yaml.Node, name: str) -> tuple[yaml.Node, yaml.Node] | None:
    """Key and value of this name in a section, or in those that `<<` merges into it."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    for key, value in pairs:
        if key.value == name:
            return key, value
    for key, value in pairs:
        for one in (value.value if isinstance(value, yaml.SequenceNode) else [value]) if key.value == '<<' else []:
            if _find(one, name):
                return _find(one, name)
    return None


def _rebind_entry_script() -> None:
    """Rebind `load_resume_state` in the script that runs.

    In `basicsr/train.py`, run as a script, it is defined in `__main__` after BasicSR was imported and patched.
    """
    import basicsr.train

    entry = sys.modules['__main__']
    function = getattr(entry, 'load_resume_state', None)
    if function is not None and 'check_resume' in function.__code__.co_names:
        entry.load_resume_state = basicsr.train.load_resume_state


def force_yml() -> None:
    """Let `--force_yml` read values as the option file does.

    BasicSR 1.4.2 takes negative numbers and exponents (`-1`, `1e-4`) for texts there, and evaluates lists as code.
    """

    def make(original):
        def read(value):
            return None if value.lower() == 'none' else read_value(value, '--force_yml')

        return read

    wrap(options, '_postprocess_yml_value', make)


PATCHES = (safe_yaml, parse_options, make_exp_dirs, force_yml)
