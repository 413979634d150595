"""What `import basicsr` needs, shown without the patch and with it."""

BROKEN_DISTUTILS = """
import sys
class NoDistutils:  # as on Python 3.12 without setuptools
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('distutils', '_distutils_hack'):
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
sys.meta_path[:] = [f for f in sys.meta_path if 'distutils' not in type(f).__name__.lower()]
for name in [name for name in sys.modules if name.split('.')[0] == 'distutils']:
    del sys.modules[name]
sys.meta_path.insert(0, NoDistutils())
"""

NO_FUNCTIONAL_TENSOR = """
import sys, torchvision.transforms
class NoFunctionalTensor:  # as from torchvision 0.17 on
    def find_spec(self, name, path=None, target=None):
        if name == 'torchvision.transforms.functional_tensor':
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
sys.meta_path.insert(0, NoFunctionalTensor())
"""


def last_line(result):
    return result.stderr.strip().splitlines()[-1]


def test_functional_tensor(run, tmp_path):
    code = NO_FUNCTIONAL_TENSOR + 'import basicsr'
    without = run('python', '-c', code, cwd=tmp_path, check=False, BASICSR_PLUGINS_AUTOLOAD='0')
    assert without.returncode == 1
    assert last_line(without) == "ModuleNotFoundError: No module named 'torchvision.transforms.functional_tensor'"

    code += """
import torch
from basicsr.data.degradations import rgb_to_grayscale
image = torch.tensor([1.0, 0.5, 0.25]).view(3, 1, 1)
print(f'{rgb_to_grayscale(image).item():.4f}')
"""
    grey = 0.2989 * 1.0 + 0.587 * 0.5 + 0.114 * 0.25
    assert run('python', '-c', code, cwd=tmp_path).stdout.split() == [f'{grey:.4f}']


def test_distutils_version(run, tmp_path):
    import_arch_util = BROKEN_DISTUTILS + 'from distutils.version import LooseVersion'
    without = run('python', '-c', import_arch_util, cwd=tmp_path, check=False, BASICSR_PLUGINS_AUTOLOAD='0')
    assert without.returncode == 1
    assert 'distutils' in last_line(without)

    code = (
        BROKEN_DISTUTILS
        + """
import basicsr
from basicsr.archs.arch_util import LooseVersion
print(LooseVersion('0.29.2+cu130') >= LooseVersion('0.9.0'), LooseVersion('0.8.1') >= LooseVersion('0.9.0'))
"""
    )
    result = run('python', '-c', code, cwd=tmp_path)
    assert result.stdout.split() == ['True', 'False'], result.stderr
    assert 'warning' not in result.stderr
