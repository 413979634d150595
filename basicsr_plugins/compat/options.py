"""Option files: read as data, checked at start, output under the folder that the user is in."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from basicsr.utils import options
from basicsr.utils.registry import DATASET_REGISTRY, MODEL_REGISTRY

from basicsr_plugins.compat.rebind import wrap
from basicsr_plugins.errors import InputError

REQUIRED_KEYS = ('name', 'model_type', 'num_gpu', 'datasets', 'path')
REQUIRED_TO_TRAIN = ('train', 'logger')
REQUIRED_TO_TEST = ('val',)


class SafeOptionLoader(getattr(yaml, 'CSafeLoader', yaml.SafeLoader)):
    """YAML loader for option files: ordered mappings, plain data only, `1e-4` is a number."""

    def construct_ordered_mapping(self, node):
        self.flatten_mapping(node)
        return OrderedDict(self.construct_pairs(node))


SafeOptionLoader.add_constructor(
    yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, SafeOptionLoader.construct_ordered_mapping
)
# YAML 1.1 wants a dot in a float, so that `lr: 4e-4` would be a string; everybody who writes it means the number.
SafeOptionLoader.add_implicit_resolver(
    'tag:yaml.org,2002:float', re.compile(r'^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$'), list('-+0123456789')
)


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
    results and tb_logger land in site-packages; here the root is then the current folder. A missing, unreadable or
    incomplete option file, and `num_gpu` above 0 where there is no CUDA, stop with one sentence.
    """

    def make(original):
        def parse(root_path, is_train=True):
            _check_option_file(REQUIRED_KEYS + (REQUIRED_TO_TRAIN if is_train else REQUIRED_TO_TEST))
            opt, args = original(str(output_root(root_path)), is_train=is_train)
            if opt['num_gpu'] != 0 and not torch.cuda.is_available():
                raise InputError(
                    f'num_gpu: {opt["num_gpu"]} is asked for, but PyTorch sees no CUDA device; say 0 (or auto).'
                )
            _check_names(opt)
            _mend_entry_script()
            return opt, args

        return parse

    wrap(options, 'parse_options', make)


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
            opt = yaml.load(file, Loader=SafeOptionLoader)
    except OSError as error:
        raise InputError(f'{where}: {error.strerror}.') from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f'{where} is not a YAML file of plain data: {" ".join(str(error).split())}') from error
    if not isinstance(opt, dict):
        raise InputError(f'{where} holds no options.')
    return opt


def _check_option_file(required_keys: Sequence[str]) -> None:
    """Stop with one sentence where the toolbox's parser would stop with a traceback."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument('-opt')
    path = parser.parse_known_args()[0].opt
    if path is None:
        return  # the toolbox's parser says so
    opt = read_options(path, f'-opt {path}')
    for key in required_keys:
        if key not in opt:
            raise InputError(f'-opt {path}: the key {key!r} is missing.')


def _check_names(opt: dict) -> None:
    """Refuse a model or dataset that no registry holds, naming the nearest that one does."""
    named = [('model_type', opt['model_type'], MODEL_REGISTRY)]
    named += [
        (f'datasets: {key}: type', section.get('type'), DATASET_REGISTRY) for key, section in opt['datasets'].items()
    ]
    for where, name, registry in named:
        if name not in registry:
            near = difflib.get_close_matches(str(name), list(registry.keys()), n=1, cutoff=0)
            raise InputError(f'{where}: there is no {name!r} in the registry; did you mean {near[0]!r}?')


def _mend_entry_script() -> None:
    """Rebind `load_resume_state` in the script that runs.

    In `basicsr/train.py`, run as a script, the function is defined in `__main__` after BasicSR was imported and mended.
    """
    import basicsr.train

    entry = sys.modules['__main__']
    function = getattr(entry, 'load_resume_state', None)
    if function is not None and 'check_resume' in function.__code__.co_names:
        entry.load_resume_state = basicsr.train.load_resume_state


PATCHES = (safe_yaml, parse_options)
