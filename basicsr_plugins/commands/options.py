"""What a class's section of an option file may hold: `basicsr-plugins options EFAR`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence

from basicsr.models import lr_scheduler  # noqa: F401  # importing BasicSR fills its registries
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, MODEL_REGISTRY

from basicsr_plugins import option_file
from basicsr_plugins.errors import InputError, suggest
from basicsr_plugins.option_schema import Key, Schema

KINDS = {  # what is named -> its classes by name, and their keys
    'networks': (lambda: option_file.registered(ARCH_REGISTRY), option_file.call_keys),
    'models': (
        lambda: option_file.registered(MODEL_REGISTRY),
        lambda cls: option_file.file_schema({'model_type': cls.__name__}, is_train=True),
    ),
    'datasets': (lambda: option_file.registered(DATASET_REGISTRY), option_file.dataset_keys),
    'losses': (option_file.losses, option_file.call_keys),
    'metrics': (option_file.image_metrics, option_file.metric_keys),
    'optimizers': (option_file.own_optimizers, option_file.optimizer_keys),
    'schedulers': (lambda: option_file.SCHEDULERS, option_file.scheduler_keys),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the keys of classes, or without a name the names that there are.

    Raises:
        InputError: If nothing has that name.
    """
    parser = argparse.ArgumentParser(prog='basicsr-plugins options', description=__doc__)
    parser.add_argument('names', nargs='*', metavar='NAME', help='a network, model, dataset, loss, metric, ...')
    names = parser.parse_args(argv).names
    if not names:
        for kind, (known, _) in KINDS.items():
            print(f'{kind}: {", ".join(known())}')
    for name in names:
        print('\n'.join([name, *_lines(_schema_of(name), '  ')]))
    return 0


def _schema_of(name: str) -> Schema:
    for known, keys in KINDS.values():
        if name in known():
            return keys(known()[name])
    raise InputError(
        f'there is no {name!r}; {suggest(name, [name for known, _ in KINDS.values() for name in known()])}'
    )


def _lines(schema: Schema, indent: str) -> Iterator[str]:
    """A line for each key: its name, what it may be, and whether it must be there, or its default."""
    for name, key in schema.items():
        if key == Key() and name in ('phase', 'scale', 'resume'):
            continue  # the toolbox adds them
        where = ', required' if key.required else '' if key.default is None else f', default {key.default}'
        text = 'other keys' if name == '*' else f'{name}: {key.describe()}{where}'
        yield f'{indent}{text}'
        if isinstance(key.keys, Mapping):
            yield from _lines(key.keys, indent + '  ')
