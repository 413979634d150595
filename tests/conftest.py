"""Shared fixtures. `../shared` holds real clips and weights; tests that use it skip, and say why, where it is absent."""

from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope='session')
def shared():
    """The folder with real clips and weights beside the checkout."""
    folder = PROJECT.parent / 'shared'
    if not folder.is_dir():
        pytest.skip(f'{folder} is absent: real clips and SpyNet weights are not part of the project')
    return folder
