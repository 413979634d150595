"""Replace a function of BasicSR for good, wherever `from ... import ...` has copied it, or for a moment."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from types import ModuleType


def wrap(owner: type | ModuleType, name: str, make: Callable[[Callable], Callable]) -> None:
    """Replace `owner.name` by `make(original)`, once; the original stays reachable as `__wrapped__`.

    Args:
        owner: A class or module of BasicSR.
        name: The function's name in it.
        make: Takes the original function and returns its replacement.
    """
    original = getattr(owner, name)
    if getattr(original, 'wrapped_by_basicsr_plugins', False):
        return
    replacement = functools.wraps(original)(make(original))
    replacement.wrapped_by_basicsr_plugins = True
    setattr(owner, name, replacement)
    for module_name, module in list(sys.modules.items()):
        if module_name.split('.')[0] != 'basicsr' and module_name != '__main__':
            continue
        for attribute, value in list(vars(module).items()):
            if value is original:
                setattr(module, attribute, replacement)


@contextlib.contextmanager
def replaced(owner: type | ModuleType, name: str, value: object) -> Iterator[None]:
    """Let `owner.name` be `value` inside the block, and what it was afterwards."""
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)
