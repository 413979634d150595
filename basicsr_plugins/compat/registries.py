"""The registries know the classes of this package; what cannot be built of them is told in one sentence."""

from __future__ import annotations

import contextlib
import functools
import traceback

import basicsr.models
from basicsr.utils.registry import Registry

from basicsr_plugins import _autoload
from basicsr_plugins.compat.rebind import wrap
from basicsr_plugins.refusals import refusing

SECTIONS = {  # method that builds a part of a model -> the section of the options
    'build_network': 'a network',
    'setup_optimizers': 'train: the optimizer',
    'setup_schedulers': 'train: scheduler',
    'init_training_settings': 'train: a loss, or a network that it needs,',
}


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
    """Tell in one sentence why a model cannot be built, where it and its networks and losses are the toolbox's or ours.

    BasicSR ends in a traceback, in every version: of a section that is missing, or a class that needs CUDA.
    """

    def make(original):
        def build(opt):
            from basicsr_plugins.option_file import ARCH_REGISTRY, LOSS_REGISTRY, MODEL_REGISTRY, registered

            things = [registered(MODEL_REGISTRY).get(opt['model_type'])]
            for name, section in (*opt.items(), *(opt.get('train') or {}).items()):
                if isinstance(section, dict) and name.startswith('network_'):
                    things.append(registered(ARCH_REGISTRY).get(section.get('type')))
                elif isinstance(section, dict) and name.endswith('_opt'):
                    things.append(registered(LOSS_REGISTRY).get(section.get('type')))
            with contextlib.nullcontext() if None in things else refusing(_failed_section, *things):
                return original(opt)

        return build

    wrap(basicsr.models, 'build_model', make)


def _failed_section(error: Exception) -> str:
    names = {call.name for call in traceback.extract_tb(error.__traceback__)}
    section = next((section for name, section in SECTIONS.items() if name in names), 'an option')
    return f'{section} cannot be used'


PATCHES = (plugin_classes, build_model)
