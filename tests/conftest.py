"""Shared fixtures. Tests that use the real clips and weights of `../shared` skip, and say so, where it is absent."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
LONGEST = (  # files, begun first, so that all cores end at about the same time
    *('test_upscale_command', 'test_benchmark_command', 'test_drills', 'test_autoload', 'test_train_realworld'),
    *('test_train_online', 'test_resume', 'test_processes', 'test_training', 'test_train_any_scale'),
    *('test_train_efar', 'test_runner', 'test_flow_training', 'test_upscaling_shared', 'test_train_toolbox'),
    *('test_train_msffn', 'test_deform_conv', 'test_option_schema', 'test_reporting', 'test_options'),
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(scope='session')
def shared():
    """The folder with real clips and weights beside the checkout."""
    folder = PROJECT.parent / 'shared'
    if not folder.is_dir():
        pytest.skip(f'{folder} is absent: real clips and SpyNet weights are not part of the project')
    return folder


@pytest.fixture(scope='session')
def run():
    """Run a command as a user would; the result has returncode, stdout and stderr."""

    def run_command(*command, cwd, check=True, **environment):
        command = [sys.executable if part == 'python' else str(part) for part in command]
        result = subprocess.run(
            command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600
        )
        if check and result.returncode != 0:
            raise AssertionError(f'{command} ended with {result.returncode}:\n{result.stdout}\n{result.stderr}')
        return result

    return run_command


@pytest.fixture(scope='session')
def run_toolbox(tmp_path_factory):
    """As `run`, of `basicsr/train.py` or `-m basicsr.train` and their arguments; BasicSR is imported once for all."""
    out, err = (tmp_path_factory.mktemp('toolbox') / name for name in ('stdout', 'stderr'))
    command = [sys.executable, str(PROJECT / 'tests' / 'forking.py')]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}  # OpenMP's threads do not survive a fork
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def run_command(*command, cwd, check=True):
        command = [str(part) for part in command]
        job = {'command': command, 'cwd': str(cwd), 'stdout': str(out), 'stderr': str(err)}
        server.stdin.write(json.dumps(job) + '\n')
        server.stdin.flush()
        code = json.loads(server.stdout.readline())
        result = subprocess.CompletedProcess(command, code, out.read_text(), err.read_text())
        if check and code != 0:
            raise AssertionError(f'{command} ended with {code}:\n{result.stdout}\n{result.stderr}')
        return result

    with server:
        yield run_command
        server.stdin.close()


@pytest.fixture
def basicsr_checkout(tmp_path):
    """A BasicSR checkout: the unmodified package beside `options/` and `datasets/`."""
    import basicsr

    shutil.copytree(Path(basicsr.__file__).parent, tmp_path / 'basicsr', ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copytree(PROJECT / 'options', tmp_path / 'options')
    (tmp_path / 'datasets').mkdir()
    return tmp_path
