"""The weights that come with the package: what they are made for, their network, size, licence and measured numbers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from basicsr_plugins.models.shipped_weights import ShippedWeights, list_shipped


def main(argv: Sequence[str] | None = None) -> None:
    """Print them.

    Args:
        argv: The arguments; None for those of the process.
    """
    argparse.ArgumentParser(prog='basicsr-plugins weights', description=__doc__).parse_args(argv)
    shipped = list_shipped()
    for name, weights in shipped.items():
        print('\n  '.join([name, *_lines(weights)]))
    if not shipped:
        print('No weights come with this version.')


def _lines(weights: ShippedWeights) -> Iterator[str]:
    arguments = ', '.join(f'{key}={value}' for key, value in weights.network.items() if key != 'type')
    yield f'made for: {weights.made_for}'
    yield f'network: {weights.network["type"]}' + (f' ({arguments})' if arguments else '')
    yield f'scale: {weights.scale}'
    yield f'size: {weights.size / 1e6:.2f} MB'
    yield f'licence: {weights.licence}'
    yield f'training: {weights.training}'
    for key, value in weights.numbers.items():
        yield f'{key}: {value}'
