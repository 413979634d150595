"""Patches that BasicSR needs before it can be imported."""

import importlib
import importlib.util
import sys
import types


def functional_tensor():
    """Give back `torchvision.transforms.functional_tensor`, which `basicsr/data/degradations.py` imports.

    Breaks from torchvision 0.17 on, which removed the module (ModuleNotFoundError at `import basicsr`); the function
    that BasicSR takes from it, `rgb_to_grayscale`, now lives in `torchvision.transforms.functional`.
    Upstream: https://github.com/XPixelGroup/BasicSR/issues/663
    """
    name = 'torchvision.transforms.functional_tensor'
    if name in sys.modules or importlib.util.find_spec(name) is not None:
        return
    module = types.ModuleType(name, doc=functional_tensor.__doc__)
    module.rgb_to_grayscale = importlib.import_module('torchvision.transforms.functional').rgb_to_grayscale
    sys.modules[name] = module


PATCHES = (functional_tensor,)
