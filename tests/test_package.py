"""The package as it is installed: every way of installing brings the import hook, the command and the data files."""

import email
import shutil
import site
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

import basicsr_plugins

from .conftest import PROJECT

REGISTERED = """
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, MODEL_REGISTRY
print(*('EFAR' in ARCH_REGISTRY, 'VSRTrainDataset' in DATASET_REGISTRY, 'VSRModel' in MODEL_REGISTRY))
"""
OPTIONS = ('--no-deps', '--no-build-isolation')


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A copy of the project, so that building leaves nothing in it."""
    folder = tmp_path_factory.mktemp('source') / 'project'
    ignore = shutil.ignore_patterns('.git', '.venv', 'build', '*.egg-info', 'datasets', 'experiments', 'results')
    shutil.copytree(PROJECT, folder, ignore=ignore)
    return folder


@pytest.fixture(scope='module')
def wheel(source, tmp_path_factory):
    """What `pip wheel .` makes."""
    folder = tmp_path_factory.mktemp('wheels')
    run_pip('wheel', *OPTIONS, '-w', folder, source)
    return next(folder.glob('*.whl'))


@pytest.fixture
def bare_python(tmp_path):
    """A Python that sees the installed dependencies as plain folders: no `.pth` file of theirs is read."""
    venv.create(tmp_path / 'venv', with_pip=False)
    packages = [path for path in site.getsitepackages() if Path(path).is_dir()]
    purelib = next((tmp_path / 'venv' / 'lib').glob('python*/site-packages'))
    # names sorted before the package's own files, as those of an installed dependency would be found
    (purelib / 'a_dependencies.pth').write_text('\n'.join(packages) + '\n')
    return tmp_path / 'venv' / 'bin' / 'python'


def run_pip(*arguments):
    subprocess.run([sys.executable, '-m', 'pip', '--disable-pip-version-check', *arguments], check=True)


def output(*command, cwd, **environment):
    """What a command prints, run without this checkout on Python's path."""
    result = subprocess.run(
        command, cwd=cwd, env={'PATH': '/usr/bin:/bin', **environment}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize('way', ['editable', 'wheel'])  # `pip install .` installs such a wheel
def test_every_way_of_installing_brings_the_hook_and_the_command(way, source, wheel, bare_python, tmp_path):
    what = {'editable': ['-e', source], 'wheel': [wheel]}[way]
    run_pip('--python', bare_python, 'install', *OPTIONS, *what)
    assert output(bare_python, '-c', REGISTERED, cwd=tmp_path).split() == ['True'] * 3
    command = bare_python.with_name('basicsr-plugins')
    assert output(command, '--version', cwd=tmp_path).strip() == basicsr_plugins.__version__
    assert 'bicubic-lr' in output(command, '--help', cwd=tmp_path)
    if way == 'wheel':
        check_a_command(command, tmp_path)
    run_pip('--python', bare_python, 'uninstall', '-y', 'basicsr-plugins')
    assert not list((tmp_path / 'venv').rglob('*basicsr[_-]plugins*'))


def check_a_command(command, folder):
    """A grey frame of 16x12 pixels becomes one of 4x3 by `basicsr-plugins bicubic-lr`."""
    (folder / 'GT' / 'clip').mkdir(parents=True)
    cv2.imwrite(str(folder / 'GT' / 'clip' / '00000000.png'), np.full((12, 16, 3), 77, np.uint8))
    output(command, 'bicubic-lr', 'GT', 'BIx4', '--num-worker', '1', cwd=folder)
    assert (cv2.imread(str(folder / 'BIx4' / 'clip' / '00000000.png')) == np.full((3, 4, 3), 77)).all()


def test_the_wheel_holds_the_whole_package(wheel):
    """Every module, the report's page, the import hook and the licence; no tests."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = next(name for name in names if name.endswith('.dist-info/METADATA'))
        fields = email.message_from_bytes(archive.read(metadata))
    package = PROJECT / 'basicsr_plugins'
    kept = [path for path in package.rglob('*') if path.is_file() and path.suffix != '.pyc']
    assert {path.relative_to(PROJECT).as_posix() for path in kept} <= names
    assert any(name.endswith('basicsr_plugins_autoload.pth') for name in names)
    assert any(name.endswith('/LICENSE') for name in names)
    assert not any(name.startswith('tests') for name in names)
    assert fields['Name'] == 'basicsr-plugins'
    assert fields['Version'] == basicsr_plugins.__version__
    assert fields['Author'] == 'The basicsr_plugins authors'
    assert fields['Requires-Python'] == '>=3.9'


def test_the_source_distribution_can_build_and_test_itself(source, tmp_path):
    code = 'import sys, setuptools.build_meta as backend; print(backend.build_sdist(sys.argv[1]))'
    output(sys.executable, '-c', code, tmp_path, cwd=source, BASICSR_PLUGINS_AUTOLOAD='0')
    with tarfile.open(next(tmp_path.glob('*.tar.gz'))) as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
    needed = ['setup.py', 'pyproject.toml', 'basicsr_plugins_autoload.pth', 'LICENSE', 'README.md', 'CHANGELOG.md']
    needed += ['options/train_EFAR_REDS.yml', 'scripts/_build_basicsr/sitecustomize.py', 'tests/conftest.py']
    assert set(needed) <= names
