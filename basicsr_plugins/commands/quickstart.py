"""Train a small EFAR on demo clips and compare it with bicubic: the recipe of the checkout that this package is in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from basicsr_plugins.errors import InputError

CHECKOUT = Path(__file__).resolve().parents[2]
RECIPE = Path('scripts') / 'recipes' / 'quickstart.py'


def main(argv: Sequence[str]) -> int:
    """Run the recipe in its checkout.

    Args:
        argv: The recipe's arguments.

    Returns:
        Its exit code.

    Raises:
        InputError: If the package is not installed from a checkout (`pip install -e .`), which holds the recipe and its
            option files.
    """
    if not (CHECKOUT / RECIPE).is_file():
        raise InputError(
            'quickstart: the recipe and its option files are in a checkout of basicsr_plugins, not in an installed '
            'package; run `bash scripts/quickstart.sh` in a checkout.'
        )
    return subprocess.call([sys.executable, str(RECIPE), *argv], cwd=CHECKOUT)
