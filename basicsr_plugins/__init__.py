"""Video super-resolution for BasicSR: EFAR and its relatives, trained, compared and run in the toolbox.

Importing this package costs next to nothing: it installs an import hook, and when `basicsr` is imported, the hook makes
BasicSR 1.4.2 run on today's PyTorch (`basicsr_plugins.compat`) and lets its registries find this package's classes.
"""

from basicsr_plugins._autoload import install, register

__version__ = '0.2.0.dev0'
__all__ = ['__version__', 'register']

install()
