"""The recipes are files run by their paths, beside each other: here they are imported the same way."""

import sys

from ..conftest import PROJECT

sys.path.insert(0, str(PROJECT / 'scripts' / 'recipes'))
