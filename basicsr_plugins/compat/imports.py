"""Patches that BasicSR needs before it can be imported."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types


def functional_tensor() -> None:
    """Give back `torchvision.transforms.functional_tensor`, which `basicsr/data/degradations.py` imports.

    Breaks from torchvision 0.17 on, which removed the module: ModuleNotFoundError at `import basicsr`. The function
    that BasicSR takes from it, `rgb_to_grayscale`, lives in `torchvision.transforms.functional`.
    Upstream: https://github.com/XPixelGroup/BasicSR/issues/663
    """
    name = 'torchvision.transforms.functional_tensor'
    if name in sys.modules or _finds(name):
        return
    module = types.ModuleType(name, doc=functional_tensor.__doc__)
    module.rgb_to_grayscale = importlib.import_module('torchvision.transforms.functional').rgb_to_grayscale
    sys.modules[name] = module


def distutils_version() -> None:
    """Give back `distutils.version.LooseVersion`, with which `basicsr/archs/arch_util.py` compares versions.

    Breaks from Python 3.12 on, which removed distutils, unless setuptools lends its own copy: ModuleNotFoundError at
    `import basicsr`. Here `packaging`'s version class takes its place.
    """
    if 'distutils.version' in sys.modules or _finds('distutils.version'):
        return
    module = types.ModuleType('distutils.version', doc=distutils_version.__doc__)
    module.LooseVersion = importlib.import_module('packaging.version').Version
    package = types.ModuleType('distutils')
    package.__path__ = []
    package.version = module
    sys.modules.setdefault('distutils', package)
    sys.modules['distutils.version'] = module


def _finds(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the parent package is missing
        return False


PATCHES = (functional_tensor, distutils_version)
