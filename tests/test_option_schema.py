"""The schema by itself; tests/compat/test_options.py reads option files with it."""

import copy
import importlib.util
import inspect
import random
import sys
from pathlib import Path

import pytest
import torch
import yaml
from basicsr.utils.registry import ARCH_REGISTRY, METRIC_REGISTRY

from basicsr_plugins.commands import options as command
from basicsr_plugins.compat.options import read_options
from basicsr_plugins.errors import InputError
from basicsr_plugins.option_file import call_keys, check_option_file, file_schema, metric_keys, registered
from basicsr_plugins.option_schema import Key, OptionError, check_section, keys_of

from .conftest import PROJECT


def load_drill():
    sys.path.insert(0, str(PROJECT / 'scripts' / 'drills'))  # as the script itself has it
    spec = importlib.util.spec_from_file_location('drill', PROJECT / 'scripts' / 'drills' / 'options.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


drill = load_drill()


@pytest.mark.parametrize(
    ('key', 'right', 'wrong'),
    [
        (Key('int', low=1, high=8), [1, 8], [0, 9, 1.0, '1', True, None, [1], float('nan')]),
        (Key('count', low=1), [1, 5e3, 10**400], [0, 2.5, '5', True, float('inf')]),
        (Key('float', above=0, below=1), [1e-9, 0.5], [0, 1, -1, 'x', float('nan'), False]),
        (Key('float | None', low=0), [0, None], [-1, '']),
        (Key('bool'), [True, False], [0, 1, 'true', None]),
        (Key('str'), ['a'], ['', ' ', 0, None, ['a']]),
        (Key('name'), ['a', 'EFAR_x4.v2', 'ä b'], ['', '.', '..', 'a/b', '/a', 'a\\b', ' a', 'a\n', 'a' * 201, 1]),
        (Key('str', choices=('mean', 'sum')), ['sum'], ['summ', 0, None]),
        (Key('int', low=0, choices=('auto',)), [0, 'auto'], ['0', 'Auto', -1]),
        (Key('list[int]', low=1), [[1, 2], (3,)], [[], [0], [1, 'a'], 1, 'a', [1.5], {}]),
        (Key('list[float]', low=0, below=1, least=2, most=2), [[0, 0.9]], [[0.9], [0.9, 1], [0, 0, 0]]),
        (Key('str | list[str]'), ['a', ['a', 'b']], [['a', 0], 0]),
        (Key('dict', keys={'a': Key('int', required=True)}), [{'a': 1}], [{}, {'a': 'x'}, {'b': 1, 'a': 1}, [], 'a']),
        (Key('dict', keys={'*': Key('int')}), [{}, {'x': 1}], [{'x': 'y'}]),
    ],
)
def test_values(key, right, wrong):
    for value in right:
        key.check(value, ('key',))
    for value in wrong:
        with pytest.raises(OptionError) as caught:
            key.check(value, ('key',))
        assert str(caught.value).startswith('key')
        assert str(caught.value).endswith(('.', '?'))


def test_messages():
    schema = {'optim_g': Key('dict', keys={'lr': Key('float', required=True, above=0)})}
    for options, message, path in (
        ({'lr': 'abc'}, "train: optim_g: lr must be a number above 0, but is 'abc'.", ('train', 'optim_g', 'lr')),
        ({'rl': 1}, "train: optim_g: there is no key 'rl'; did you mean 'lr'?", ('train', 'optim_g', 'rl')),
        ({}, "train: optim_g: the key 'lr' is missing.", ('train', 'optim_g')),
    ):
        with pytest.raises(OptionError) as caught:
            check_section({'optim_g': options}, schema, 'train')
        assert (str(caught.value), caught.value.path) == (message, path)


def test_keys_come_from_the_signature():
    def function(hinted: int, text: 'str | None' = None, rate: 'float' = 1, steps: 'list[int]' = (1,), plain=2, **rest):
        pass

    keys = keys_of(function, {'hinted': (1, 9), 'plain': (0, 4)})
    assert {name: (key.kind, key.required, key.low, key.high) for name, key in keys.items()} == {
        'hinted': ('int', True, 1, 9),
        'text': ('str | None', False, None, None),
        'rate': ('float', False, None, None),
        'steps': ('list[int]', False, None, None),
        'plain': ('int', False, 0, 4),
        '*': ('any', False, None, None),
    }
    assert '*' not in keys_of(function, closed=True)
    assert keys_of(function, {'text': ('a', 'b')})['text'].choices == ('a', 'b')


@pytest.mark.parametrize('name', sorted(registered(ARCH_REGISTRY)))
def test_defaults_of_every_network_are_valid(name):
    """What a constructor has as its default, a schema made from its signature must take."""
    network = registered(ARCH_REGISTRY)[name]
    keys = call_keys(network)
    for parameter in inspect.signature(network).parameters.values():
        if parameter.default is not parameter.empty:
            keys[parameter.name].check(parameter.default, (name, parameter.name))


def test_metrics_refuse_what_they_would_ignore():
    """The toolbox's metrics take any argument and ignore it; a user's may want it."""
    assert '*' not in metric_keys(METRIC_REGISTRY.get('calculate_psnr'))

    def users_metric(img, img2, **kwargs):
        pass

    assert '*' in metric_keys(users_metric)


def test_a_networks_own_ranges():
    class Net(torch.nn.Module):
        argument_ranges = {'depth': (2, 4), 'mode': ('a', 'b')}  # noqa: RUF012

        def __init__(self, depth: int = 3, mode: str = 'a'):
            super().__init__()

    keys = call_keys(Net)
    assert (keys['depth'].low, keys['depth'].high, keys['mode'].choices) == (2, 4, ('a', 'b'))


class TestEveryKey:
    """Of a whole training file: each key of its schema with a wrong type, out of range, missing, misspelt."""

    @pytest.fixture(scope='class')
    def base(self, tmp_path_factory):
        return drill.base_options(tmp_path_factory.mktemp('data'))

    @staticmethod
    def refuses(options, path):
        with pytest.raises(OptionError) as caught:
            check_option_file(options, is_train=True)
        assert caught.value.path[: len(path)] == path, caught.value
        assert '\n' not in str(caught.value)

    def test_all(self, base):
        check_option_file(base, is_train=True)
        keys = list(drill.walk(base, file_schema(base, is_train=True)))
        assert len(keys) > 90
        tried = 0
        for path, key in keys:
            for value in drill.wrong_values(key):
                self.refuses(self.changed(base, path, value), path)
                tried += 1
            section = copy.deepcopy(base)
            for name in path[:-1]:
                section = section[name]
            if key.required:
                self.refuses(self.changed(base, path, remove=True), path[:-1])
            if path[:2] != ('val', 'metrics') or len(path) > 3:  # a metric may have any name
                wrong = (*path[:-1], path[-1] + 'x')
                self.refuses(self.changed(base, wrong, section.get(path[-1])), wrong)
        assert tried > 800

    def test_all_classes_of_the_projects_files(self):
        """Of each network, model, data set, loss, optimizer and scheduler that they name: each key as above."""
        seen, tried = set(), 0
        for file in sorted((PROJECT / 'options').glob('train_*.yml')):
            base = read_options(file, file.name)
            for path, key in drill.walk(base, file_schema(base, is_train=True)):
                section = base
                for name in path[:-1]:
                    section = section[name]
                what = section.get('type', path[:-1]), path[-1]
                if what in seen or path[:2] == ('val', 'metrics'):
                    continue
                seen.add(what)
                for value in drill.wrong_values(key):
                    self.refuses(self.changed(base, path, value), path)
                    tried += 1
                if 'auxiliary_weights' in path or section.get('type', '').startswith('Vimeo90K'):
                    continue  # the network knows these names; a data set of the toolbox may take any
                wrong = (*path[:-1], path[-1] + 'x')
                self.refuses(self.changed(base, wrong, section.get(path[-1])), wrong)
        assert {'EFAR', 'BasicAVSR', 'SyntheticMotionDataset', 'SGD', 'PerceptualLoss', 'GANLoss'} <= {
            kind for kind, _ in seen
        }
        assert tried > 1500

    @staticmethod
    def changed(base, path, value=None, remove=False):
        options = copy.deepcopy(base)
        section = options
        for name in path[:-1]:
            section = section[name]
        if remove:
            section.pop(path[-1], None)
        else:
            section[path[-1]] = value
        return options


def test_mutated_files():
    """A small part of the drill: three hundred mutated files, checked but not trained with."""
    base = drill.base_options(Path('data'))
    for seed in range(300):
        kind = ('wrong type', 'missing', 'misspelt', 'same')[seed % 4]
        text, said = drill.mutate(base, kind, random.Random(seed))
        options = yaml.safe_load(text)
        if kind == 'same':
            check_option_file(options, is_train=True)
        else:
            with pytest.raises(OptionError):
                print(said, check_option_file(options, is_train=True))


class TestCommand:
    def test_prints_a_schema(self, capsys):
        assert command.main(['EFAR', 'VSRModel']) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == 'EFAR'
        assert '  num_feat: a whole number from 1 to 1024, default 64' in lines
        assert '    ema_decay: a number from 0 below 1, default 0' in lines
        assert '    print_freq: a whole number from 1 to 1000000000, required' in lines

    def test_names_and_a_wrong_one(self, capsys):
        command.main([])
        assert 'EFAR' in capsys.readouterr().out
        assert command.main(['SGD']) == 0
        with pytest.raises(InputError, match="there is no 'EFRA'; did you mean 'EFAR'"):
            command.main(['EFRA'])
