"""Every message to the user is a whole sentence."""

import ast
import os
import subprocess
import sys

import pytest

from .conftest import PROJECT

FILES = sorted([*(PROJECT / 'basicsr_plugins').rglob('*.py'), *(PROJECT / 'scripts').rglob('*.py')])


def messages(file):
    """Line numbers and last literal parts of what `raise InputError(...)` says; a part that is computed is left out."""
    for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            name, message = getattr(node.exc.func, 'id', ''), node.exc.args[0]
            last = message.values[-1] if isinstance(message, ast.JoinedStr) else message
            if name == 'InputError' and isinstance(last, ast.Constant):
                yield node.lineno, last.value


@pytest.mark.parametrize('file', FILES, ids=lambda file: str(file.relative_to(PROJECT)))
def test_messages_end_with_a_full_stop(file):
    assert [f'{file.name}:{line}: {text}' for line, text in messages(file) if not text.endswith(('.', '?'))] == []


@pytest.mark.parametrize('folder', ['archs', 'data', 'inference', 'metrics', 'models', 'ops', 'video'])
def test_the_library_speaks_of_arguments(folder):
    """Not of a command's flags; but for `--network`, of which entries are read in `models.entries`."""
    for file in (PROJECT / 'basicsr_plugins' / folder).glob('*.py'):
        if file.name != 'entries.py':
            for line, text in messages(file):
                assert ' --' not in text, f'{file.name}:{line}: {text}'


def test_a_reader_that_has_read_enough_gets_no_traceback():
    """As `basicsr-plugins options EFAR | head -1`: the pipe is closed before all is written."""
    read, write = os.pipe()
    os.close(read)
    script = "from basicsr_plugins.errors import run_script; run_script(lambda: print('x' * 100_000))"
    ended = subprocess.run([sys.executable, '-c', script], stdout=write, stderr=subprocess.PIPE, text=True, cwd=PROJECT)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (141, '')
