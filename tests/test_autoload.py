"""The import hook: what it does, when, and what it leaves alone."""

import subprocess
import sys
from pathlib import Path

from .conftest import PROJECT

NAMES = """
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, MODEL_REGISTRY
print(*('EFAR' in ARCH_REGISTRY, 'Bicubic' in ARCH_REGISTRY, 'VSRTrainDataset' in DATASET_REGISTRY,
        'VSRTestDataset' in DATASET_REGISTRY, 'VSRModel' in MODEL_REGISTRY))
"""


def test_off_switch_leaves_the_interpreter_alone(run, tmp_path):
    code = 'import sys; print("basicsr_plugins" in sys.modules)'
    assert run('python', '-c', code, cwd=tmp_path).stdout.split() == ['True']
    assert run('python', '-c', code, cwd=tmp_path, BASICSR_PLUGINS_AUTOLOAD='0').stdout.split() == ['False']


def test_without_autoload_basicsr_behaves_as_before(run, tmp_path):
    """On a torchvision without `functional_tensor` that is: it does not import."""
    result = run('python', '-c', 'import basicsr', cwd=tmp_path, check=False, BASICSR_PLUGINS_AUTOLOAD='0')
    if result.returncode == 0:  # an old torchvision
        names = run('python', '-c', NAMES, cwd=tmp_path, BASICSR_PLUGINS_AUTOLOAD='0').stdout
        assert names.split() == ['False'] * 5
    else:
        assert 'functional_tensor' in result.stderr.splitlines()[-1]


def test_explicit_import_works_without_autoload(run, tmp_path):
    code = 'import basicsr_plugins' + NAMES
    assert run('python', '-c', code, cwd=tmp_path, BASICSR_PLUGINS_AUTOLOAD='0').stdout.split() == ['True'] * 5


def test_any_module_of_the_package_can_be_imported_first(tmp_path):
    """Each of them alone, in an interpreter of its own: importing BasicSR imports most of them in turn."""
    package = PROJECT / 'basicsr_plugins'
    names = ['.'.join(path.relative_to(PROJECT).with_suffix('').parts) for path in package.rglob('*.py')]
    names = sorted(name.removesuffix('.__init__') for name in names)
    assert 'basicsr_plugins.archs.vsr_modules' in names
    # in one process, forked for each module before anything of BasicSR is imported
    code = """
import importlib, os, sys  # and what takes long, for all:
import av, cv2, jinja2, lmdb, matplotlib.pyplot, scipy.ndimage, scipy.stats, setuptools, torch, torchvision, tqdm, yaml
sys.argv = ['-c']
for name in NAMES:
    pid = os.fork()
    if pid == 0:
        importlib.import_module(name)
        import basicsr
        from basicsr.utils.registry import ARCH_REGISTRY, MODEL_REGISTRY
        os._exit(0 if 'EFAR' in ARCH_REGISTRY and 'VSRModel' in MODEL_REGISTRY else 1)
    if os.waitpid(pid, 0)[1] != 0:
        print(name)
"""
    code = code.replace('NAMES', repr(names))
    result = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert result.stdout == ''
    assert 'warning' not in result.stderr


def test_interpreter_start_imports_nothing_heavy(run, tmp_path):
    code = 'import sys; print(*sorted(name for name in sys.modules if name.startswith(("basicsr", "torch", "numpy"))))'
    assert run('python', '-c', code, cwd=tmp_path).stdout.split() == ['basicsr_plugins', 'basicsr_plugins._autoload']


def test_registering_twice_is_harmless_and_toolbox_names_stay_untouched(run, tmp_path):
    code = """
import basicsr, basicsr_plugins
from basicsr.utils import registry
from basicsr_plugins._autoload import MODULES
registries = [registry.ARCH_REGISTRY, registry.DATASET_REGISTRY, registry.MODEL_REGISTRY, registry.METRIC_REGISTRY,
              registry.LOSS_REGISTRY]
before = [dict(iter(one)) for one in registries]
basicsr_plugins.register()
assert before == [dict(iter(one)) for one in registries]
ours = {(one._name, name) for one in registries for name, item in one if item.__module__.startswith('basicsr_plugins')}
modules = {item.__module__ for one in registries for name, item in one}
print(modules >= {f'basicsr_plugins.{module}' for module in MODULES}, len(ours))
for one in registries:  # every other name still means the class or function that the toolbox defines under it
    for name, item in one:
        assert (one._name, name) in ours or item.__module__.startswith('basicsr.'), name
"""
    result = run('python', '-c', code, cwd=tmp_path)
    every_module_registers, number = result.stdout.split()
    assert every_module_registers == 'True'
    assert int(number) >= 7


def test_failure_inside_the_hook_is_one_line_and_basicsr_goes_on(run, tmp_path):
    code = """
import basicsr_plugins._autoload as autoload
autoload.MODULES = ('archs.no_such_arch',)
import basicsr
from basicsr.utils.registry import ARCH_REGISTRY
print(basicsr.__version__, *('BasicVSR' in ARCH_REGISTRY for _ in range(2)))
"""
    result = run('python', '-c', code, cwd=tmp_path)
    assert result.stdout.split() == ['1.4.2', 'True', 'True']
    warnings = [line for line in result.stderr.splitlines() if 'basicsr_plugins: warning' in line]
    assert len(warnings) == 1
    assert 'no_such_arch' in warnings[0]
    assert 'Traceback' not in result.stderr


def test_broken_package_does_not_break_the_interpreter(run, tmp_path):
    (tmp_path / 'basicsr_plugins').mkdir()
    (tmp_path / 'basicsr_plugins' / '__init__.py').write_text('raise RuntimeError("broken on purpose")')
    line = (PROJECT / 'basicsr_plugins_autoload.pth').read_text()
    result = run('python', '-S', '-c', f'{line}\nprint("alive")', cwd=tmp_path)
    assert result.stdout.split() == ['alive']
    assert result.stderr.strip() == 'basicsr_plugins: warning: autoload is off (RuntimeError: broken on purpose)'


def test_looking_basicsr_up_leaves_the_hook_in_place(run, tmp_path):
    code = 'import importlib.util; assert importlib.util.find_spec("basicsr")' + NAMES
    assert run('python', '-c', code, cwd=tmp_path).stdout.split() == ['True'] * 5


def test_failed_import_of_basicsr_is_wrapped_again(run, tmp_path):
    code = (
        """
import sys
sys.modules['cv2'] = None  # BasicSR's import fails
try:
    import basicsr
except ImportError:
    pass
del sys.modules['cv2']
for name in [name for name in sys.modules if name.split('.')[0] == 'basicsr']:
    del sys.modules[name]
"""
        + NAMES
    )
    assert run('python', '-c', code, cwd=tmp_path).stdout.split() == ['True'] * 5


def test_the_package_of_a_checkout_is_fixed_too(run, basicsr_checkout):
    """Where the checkout itself is on the path, and not the installed BasicSR."""
    code = 'import basicsr; print(basicsr.__file__)' + NAMES
    path, *found = run('python', '-c', code, cwd=basicsr_checkout, PYTHONPATH='.').stdout.split()
    assert Path(path).resolve() == basicsr_checkout / 'basicsr' / '__init__.py'
    assert found == ['True'] * 5
