"""Shared fixtures. Tests that use the real clips and weights of `../shared` skip, and say so, where it is absent."""

import itertools
import json
import os
import shutil
import signal
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


class Forked:
    """A process of `start_forked`, used as one of `subprocess.Popen`."""

    def __init__(self, ask, job):
        self.ask, self.job = ask, job
        self.pid = ask('start', job)
        self.returncode = None

    def poll(self):
        if self.returncode is None:
            self.returncode = self.ask('poll', self.pid)
        return self.returncode

    def wait(self):
        if self.returncode is None:
            self.returncode = self.ask('wait', self.pid)
        return self.returncode

    def kill(self):
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def output(self):
        """What it printed, and its errors."""
        return tuple(Path(self.job[name]).read_text() for name in ('stdout', 'stderr'))


@pytest.fixture(scope='session')
def start_forked(tmp_path_factory):
    """Start a script, or `-m` and a module, with its arguments, in a process forked after BasicSR was imported."""
    folder, number = tmp_path_factory.mktemp('forked'), itertools.count()
    command = [sys.executable, str(PROJECT / 'tests' / 'forking.py')]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}  # OpenMP's threads do not survive a fork
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def ask(what, value):
        server.stdin.write(json.dumps([what, value]) + '\n')
        server.stdin.flush()
        return json.loads(server.stdout.readline())

    def start(*command, cwd, **environment):
        log = str(folder / str(next(number)))
        job = {'command': [str(part) for part in command], 'cwd': str(cwd), 'environment': environment}
        return Forked(ask, {**job, 'stdout': f'{log}.out', 'stderr': f'{log}.err'})

    with server:
        yield start
        server.stdin.close()


@pytest.fixture(scope='session')
def run_forked(start_forked):
    """As `run('python', ...)`, of a script or of `-m` and a module; BasicSR is imported once for all of them."""

    def run_command(*command, cwd, check=True, **environment):
        process = start_forked(*command, cwd=cwd, **environment)
        code, output = process.wait(), process.output()
        if check and code != 0:
            raise AssertionError(f'{command} ended with {code}:\n' + '\n'.join(output))
        return subprocess.CompletedProcess(command, code, *output)

    return run_command


@pytest.fixture
def basicsr_checkout(tmp_path):
    """A BasicSR checkout: the unmodified package beside `options/` and `datasets/`."""
    import basicsr

    shutil.copytree(Path(basicsr.__file__).parent, tmp_path / 'basicsr', ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copytree(PROJECT / 'options', tmp_path / 'options')
    (tmp_path / 'datasets').mkdir()
    return tmp_path
