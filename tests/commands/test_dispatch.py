"""The command `basicsr-plugins`: its table, its help, and what a wrong name gives."""

import importlib
import inspect

import pytest

from basicsr_plugins import __version__, commands
from basicsr_plugins.errors import InputError

from ..conftest import PROJECT


@pytest.mark.parametrize('name', commands.COMMANDS)
def test_every_command_of_the_table_is_there(name):
    module = importlib.import_module(f'basicsr_plugins.commands.{name.replace("-", "_")}')
    assert list(inspect.signature(module.main).parameters) == ['argv']


@pytest.mark.parametrize('name', [name for name in commands.COMMANDS if name != 'quickstart'])  # the recipe's own help
def test_help_names_the_command(name, capsys):
    with pytest.raises(SystemExit):
        commands.main([name, '--help'])
    assert capsys.readouterr().out.startswith(f'usage: basicsr-plugins {name} ')


def test_every_module_of_the_folder_is_in_the_table():
    folder = PROJECT / 'basicsr_plugins' / 'commands'
    names = {path.stem.replace('_', '-') for path in folder.glob('*.py') if not path.stem.startswith('_')}
    assert names <= set(commands.COMMANDS)


def test_arguments_go_to_the_command_and_its_exit_code_comes_back(monkeypatch):
    module = importlib.import_module('basicsr_plugins.commands.quickstart')
    given = []
    monkeypatch.setattr(module, 'main', lambda argv: given.append(argv) or 3)
    assert commands.main(['quickstart', '--fresh', '--help']) == 3
    assert given == [['--fresh', '--help']]


@pytest.mark.parametrize(
    ('name', 'message'),
    [('upscal', "no command 'upscal'; did you mean 'upscale'"), ('x', 'valid ones are benchmark, bicubic-lr, ')],
)
def test_a_wrong_name_is_answered_by_the_nearest(name, message):
    with pytest.raises(InputError, match=message):
        commands.main([name])


def test_help_lists_all_and_imports_nothing_heavy(run, tmp_path):
    shown = run('python', '-X', 'importtime', '-m', 'basicsr_plugins', '--help', cwd=tmp_path)
    assert all(f'  {name} ' in shown.stdout for name in commands.COMMANDS)
    imported = {line.split('|')[-1].strip() for line in shown.stderr.splitlines()}
    assert 'basicsr_plugins.commands' in imported
    assert not imported & {'basicsr', 'torch', 'numpy', 'cv2'}
    assert run('python', '-m', 'basicsr_plugins', '--version', cwd=tmp_path).stdout.strip() == __version__


def test_an_error_is_one_line_and_exit_code_1(run, tmp_path):
    result = run('python', '-m', 'basicsr_plugins', 'upscal', cwd=tmp_path, check=False)
    assert (result.returncode, result.stderr) == (1, "error: there is no command 'upscal'; did you mean 'upscale'?\n")


def test_quickstart_needs_a_checkout(monkeypatch, tmp_path):
    module = importlib.import_module('basicsr_plugins.commands.quickstart')
    monkeypatch.setattr(module, 'CHECKOUT', tmp_path)
    with pytest.raises(InputError, match='not in an installed package'):
        module.main([])
    (tmp_path / module.RECIPE).parent.mkdir(parents=True)
    (tmp_path / module.RECIPE).write_text('import sys; sys.exit(len(sys.argv))')
    assert module.main(['--fresh', 'x']) == 3
