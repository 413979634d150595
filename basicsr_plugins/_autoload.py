"""The import hook: when `basicsr` is imported, fix it, and let its registries find this package's classes.

`basicsr_plugins_autoload.pth` in site-packages imports this package at interpreter start, unless
`BASICSR_PLUGINS_AUTOLOAD=0`. So nothing here may be heavy (only `sys` is imported) and nothing may fail aloud: whatever
goes wrong inside the hook is one line of warning, and the import of `basicsr` goes on.

The classes themselves are imported when a registry is first asked (`compat.registries`), not while `basicsr` is: any
module of this package may be what imports `basicsr`, and would then be half done.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.machinery import ModuleSpec

MODULES = (  # each registers its classes when imported
    'archs.basicavsr_arch',
    'archs.bicubic_arch',
    'archs.drcn_arch',
    'archs.drrn_arch',
    'archs.efar_arch',
    'archs.espcn_arch',
    'archs.frvsr_arch',
    'archs.fsrcnn_arch',
    'archs.lapsrn_arch',
    'archs.liif_arch',
    'archs.metasr_arch',
    'archs.msffn_arch',
    'archs.rdn_arch',
    'archs.realbasicvsr_arch',
    'archs.rednet_arch',
    'archs.rlsp_arch',
    'archs.rrn_arch',
    'archs.rsdn_arch',
    'archs.sesr_arch',
    'archs.srcnn_arch',
    'archs.srdensenet_arch',
    'archs.tdan_arch',
    'archs.vdsr_arch',
    'archs.zooming_slow_mo_arch',
    'data.synthetic_motion_dataset',
    'data.vsr_train_dataset',
    'data.vsr_test_dataset',
    'metrics.lpips',
    'metrics.tof',
    'models.vsr_gan_model',
    'models.vsr_model',
)


class BasicSRFinder:
    """Meta path finder that wraps the import of the top-level package `basicsr`, and of nothing else."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> 'ModuleSpec | None':
        if fullname != 'basicsr':
            return None
        for finder in sys.meta_path:
            find_spec = getattr(finder, 'find_spec', None)
            spec = find_spec(fullname, path, target) if find_spec and finder is not self else None
            if spec is not None:
                if spec.loader is not None:  # None for a bare folder of that name: not ours to touch
                    self._wrap(spec.loader)
                return spec
        return None

    def _wrap(self, loader):
        """Shadow `loader.exec_module` once, so that the module keeps its own loader afterwards."""
        exec_module = loader.exec_module

        def exec_and_fix(module):
            del loader.exec_module
            guarded(apply_before_import)
            exec_module(module)
            if self in sys.meta_path:  # done; had the import failed, the next attempt would be wrapped again
                sys.meta_path.remove(self)
            guarded(apply)

        loader.exec_module = exec_and_fix


def guarded(function: 'Callable[[], None]') -> None:
    """Call `function`; an error in it becomes one line on standard error."""
    try:
        function()
    except Exception as error:
        text = ' '.join(f'{type(error).__name__}: {error}'.split())
        print(
            f'basicsr_plugins: warning: {function.__name__} failed, BasicSR goes on without it ({text})',
            file=sys.stderr,
        )


def install() -> None:
    """Install the hook, once. Where `basicsr` is imported already, call `register()`."""
    if not any(isinstance(finder, BasicSRFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, BasicSRFinder())


def apply_before_import() -> None:
    """What `basicsr` needs before it can be imported."""
    from basicsr_plugins import compat

    compat.apply_before_import()


def apply() -> None:
    """What `basicsr` needs once it is imported; its registries then import the classes when they are asked."""
    from basicsr_plugins import compat

    compat.apply()


def import_classes() -> None:
    """Import every module that registers classes."""
    from importlib import import_module

    for module in MODULES:
        import_module(f'basicsr_plugins.{module}')


def register() -> None:
    """Fix BasicSR and put this package's classes into its registries now. Calling it again is harmless."""
    apply()
    import_classes()
