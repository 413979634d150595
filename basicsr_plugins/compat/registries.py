"""The registries know the classes of this package; what cannot be built of them is told in one sentence."""

from __future__ import annotations

import contextlib
import functools

import basicsr.models
from basicsr.utils.registry import Registry

from basicsr_plugins import _autoload
from basicsr_plugins.compat.rebind import wrap
from basicsr_plugins.refusals import is_ours, refusing


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


def build_model() -> None:
    """Tell in one sentence why a model of the toolbox cannot be built with networks of the toolbox or of this package.

    BasicSR ends in a traceback, in every version: of a section that is missing, or a class that needs CUDA.
    """

    def make(original):
        def build(opt):
            from basicsr_plugins.option_file import ARCH_REGISTRY, MODEL_REGISTRY, registered

            model = registered(MODEL_REGISTRY).get(opt['model_type'])
            network = registered(ARCH_REGISTRY).get((opt.get('network_g') or {}).get('type'))
            what = f'model_type: {opt["model_type"]} cannot be built'
            with contextlib.ExitStack() as stack:
                if None not in (model, network) and is_ours(network):
                    stack.enter_context(refusing(model, what))
                return original(opt)

        return build

    wrap(basicsr.models, 'build_model', make)


PATCHES = (plugin_classes, build_model)
