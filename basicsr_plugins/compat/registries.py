"""The registries know the classes of this package."""

from __future__ import annotations

import functools

from basicsr.utils.registry import Registry

from basicsr_plugins import _autoload
from basicsr_plugins.compat.rebind import wrap


def plugin_classes() -> None:
    """Let the registries import this package's classes when one of them is first asked for a name.

    BasicSR has no way in for plugins, in every version: only what its own folders hold is registered.
    """
    import_once = functools.cache(lambda: _autoload.guarded(_autoload.import_classes))

    def make(original):
        def ask(self, *args, **kwargs):
            import_once()
            return original(self, *args, **kwargs)

        return ask

    for name in ('get', '__contains__', '__iter__', 'keys'):
        wrap(Registry, name, make)


PATCHES = (plugin_classes,)
