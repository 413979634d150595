"""Which network: how it is named, and that its weights are the right ones."""

import logging
import re
from pathlib import Path

import pytest
import torch

from basicsr_plugins.archs import vsr_modules
from basicsr_plugins.errors import InputError
from basicsr_plugins.models.entries import NetworkEntry, bicubic, parse_network, read_network_list

TINY = {'type': 'MSRResNet', 'num_feat': 4, 'num_block': 1}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a file into the current folder."""
    monkeypatch.chdir(tmp_path)

    def write_text(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write_text


def weights(value):
    """A state dict of TINY that is the same number everywhere."""
    return {
        name: torch.full_like(tensor, value) for name, tensor in NetworkEntry('', TINY).build().state_dict().items()
    }


def save(content, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return str(path)


def built_value(entry):
    """The number that all weights of a network are."""
    (value,) = {value.item() for parameter in entry.build().parameters() for value in parameter.unique()}
    return value


class TestCommandLine:
    @pytest.mark.parametrize(
        ('text', 'expected'),
        [
            ('EDVR', ('EDVR', {'type': 'EDVR'}, None)),
            ('EDVR:num_feat=8,with_tsa=false', ('EDVR', {'type': 'EDVR', 'num_feat': 8, 'with_tsa': False}, None)),
            ('small=EDVR:num_feat=8', ('small', {'type': 'EDVR', 'num_feat': 8}, None)),
            ('DUF@weights/a=b:c@d.pth', ('DUF', {'type': 'DUF'}, 'weights/a=b:c@d.pth')),
            ('x y=EDVR:num_feat=8@w.pth', ('x y', {'type': 'EDVR', 'num_feat': 8}, 'w.pth')),
            ('BasicVSR:spynet_path=~', ('BasicVSR', {'type': 'BasicVSR', 'spynet_path': None}, None)),
            (
                'IconVSR:keyframe_stride=3,edvr_path=a/b.pth',
                ('IconVSR', {'type': 'IconVSR', 'keyframe_stride': 3, 'edvr_path': 'a/b.pth'}, None),
            ),
            (
                'EFAR:coupled_propagation=true,dilations=[1, 2],num_feat=8',
                ('EFAR', {'type': 'EFAR', 'coupled_propagation': True, 'dilations': [1, 2], 'num_feat': 8}, None),
            ),
        ],
    )
    def test_reads(self, text, expected):
        entry = parse_network(text)
        assert (entry.name, dict(entry.options), entry.checkpoint) == expected
        assert entry.param_key is None

    @pytest.mark.parametrize('text', ['', '@w.pth', '=EDVR', ':num_feat=8', 'EDVR@'])
    def test_refuses_another_form(self, text):
        with pytest.raises(InputError, match=f'--network {text} must read TYPE:KEY=VALUE'):
            parse_network(text)

    @pytest.mark.parametrize(
        ('text', 'message'),
        [
            ('EDVRR', "there is no network 'EDVRR' in the registry"),
            ('EDVR:num_feats=8', "there is no key 'num_feats'; did you mean 'num_feat'?"),
            ('EDVR:num_feat', "'num_feat' must read KEY=VALUE"),
            ('EDVR:num_feat=[8', "'[8' is not a value in YAML"),
            ('EDVR:num_feat=a: b: c', "'a: b: c' is not a value in YAML"),
            ('EDVR:num_feat=!!python/object/apply:os.getpid []', 'is not a value in YAML'),
            ('EDVR:num_feat=!!int x', "'!!int x' is not a value in YAML"),
            ('EFAR:num_feat=-4', 'num_feat must be a whole number from 1 to 1024, but is -4.'),
            ('EFAR:num_feat=999999', 'num_feat must be a whole number from 1 to 1024, but is 999999.'),
            ('EFAR:num_feat=abc', "num_feat must be a whole number from 1 to 1024, but is 'abc'."),
            ('EDVR:num_feat=64.5', 'num_feat must be a whole number from 1 to 1024, but is 64.5.'),
        ],
    )
    def test_names_what_is_wrong(self, text, message):
        with pytest.raises(InputError, match=re.escape(message)) as error:
            parse_network(text)
        assert f'--network {text}' in str(error.value)

    def test_a_file_that_is_not_there(self):
        with pytest.raises(InputError, match=r'nothing\.yml: No such file'):
            parse_network('nothing.yml')


class TestList:
    def test_reads(self, write):
        write('net.yml', 'name: from_file\nnetwork_g: {type: EDVR, num_feat: 8}\n')
        path = write(
            'list.yml',
            'networks:\n'
            '- {type: EDVR, num_feat: 16, checkpoint: a.pth, param_key: params}\n'
            '- {name: second, options: net.yml, checkpoint: b.pth}\n'
            '- {options: net.yml}\n',
        )
        assert read_network_list(path) == [
            NetworkEntry('EDVR', {'type': 'EDVR', 'num_feat': 16}, 'a.pth', 'params'),
            NetworkEntry('second', {'type': 'EDVR', 'num_feat': 8}, 'b.pth', None),
            NetworkEntry('from_file', {'type': 'EDVR', 'num_feat': 8}, None, None),
        ]

    @pytest.mark.parametrize(
        ('text', 'message'),
        [
            ('', 'list.yml holds no options'),
            ('a: [', 'list.yml is not a YAML file of plain data'),
            ('nets: []', "there is no key 'nets'; did you mean 'networks'?"),
            ('networks: EDVR', 'networks must be a list of networks'),
            ('networks: [EDVR]', 'networks must be a list of networks'),
            ('networks:\n- {type: EDVR}\n- {type: Nope}', "list.yml: networks: 2: there is no network 'Nope'"),
            ('networks:\n- {num_feat: 8}', "networks: 1: the key 'type' is missing"),
            ('networks:\n- {type: [EDVR]}', "networks: 1: type must be a text, but is ['EDVR']"),
            ('networks:\n- {type: EDVR, checkpoint: 5}', 'networks: 1: checkpoint must be a text, but is 5'),
            ('networks:\n- {type: EDVR, param_key: 5}', 'networks: 1: param_key must be a text, but is 5'),
            ('networks:\n- {options: ~}', 'networks: 1: options must be a text, but is None'),
            ('networks:\n- {options: nothing.yml}', 'nothing.yml: No such file'),
        ],
    )
    def test_errors(self, write, text, message):
        with pytest.raises(InputError, match=re.escape(message)):
            read_network_list(write('list.yml', text))

    @pytest.mark.parametrize(
        ('text', 'section'),
        [
            ('name: x', 'network_g'),
            ('network_g: ~', 'network_g'),
            ('network_g: EDVR', 'network_g'),
            ('network_g: {type: EDVR}\npath: here', 'path'),
        ],
    )
    def test_an_option_file_without_its_sections(self, write, text, section):
        write('net.yml', text)
        with pytest.raises(InputError, match=f"net.yml: the section '{section}' is missing"):
            parse_network('net.yml')


class TestOptionFile:
    def test_names_network_name_and_checkpoint(self, write):
        write(
            'test.yml',
            'name: EDVR_test\nnetwork_g: {type: EDVR, num_feat: 8}\n'
            'path: {pretrain_network_g: some.pth, param_key_g: params}\n',
        )
        assert parse_network('test.yml') == NetworkEntry(
            'EDVR_test', {'type': 'EDVR', 'num_feat': 8}, 'some.pth', 'params'
        )
        assert parse_network('mine=test.yml@other.pth').checkpoint == 'other.pth'
        assert parse_network('mine=test.yml@other.pth').name == 'mine'

    def test_other_arguments_than_the_file(self, write):
        write('net.yml', 'name: net\nnetwork_g: {type: EDVR, num_feat: 8, num_frame: 3}\n')
        expected = {'type': 'EDVR', 'num_feat': 16, 'num_frame': 3}
        assert parse_network('net.yml:num_feat=16').options == expected
        path = write('list.yml', 'networks:\n- {options: net.yml, num_feat: 16}\n')
        assert read_network_list(path)[0].options == expected
        with pytest.raises(InputError, match="there is no key 'num_feet'; did you mean 'num_feat'"):
            parse_network('net.yml:num_feet=16')

    def test_what_training_left_comes_before_what_it_started_from(self, write):
        text = 'name: run\nnetwork_g: {type: EDVR}\npath: {pretrain_network_g: start.pth}\n'
        write('train.yml', text + 'train: {}\n')
        write('test.yml', text)
        assert parse_network('train.yml').checkpoint == 'start.pth'
        write('experiments/run/models/net_g_latest.pth', '')
        assert parse_network('train.yml').checkpoint == 'experiments/run/models/net_g_latest.pth'
        assert parse_network('test.yml').checkpoint == 'start.pth'

    def test_without_training_there_is_no_checkpoint(self, write):
        write('train.yml', 'name: run\nnetwork_g: {type: EDVR}\npath: {pretrain_network_g: ~}\ntrain: {}\n')
        assert parse_network('train.yml').checkpoint is None
        write('experiments/run/models/net_g_latest.pth', '')
        assert parse_network('train.yml').checkpoint == 'experiments/run/models/net_g_latest.pth'


class TestWeights:
    def test_params_ema_come_first(self, tmp_path):
        path = save({'params': weights(1.0), 'params_ema': weights(2.0)}, tmp_path / 'w.pth')
        assert built_value(NetworkEntry('', TINY, path)) == 2.0
        assert built_value(NetworkEntry('', TINY, path, 'params')) == 1.0

    def test_params_where_there_is_no_ema(self, tmp_path):
        assert built_value(NetworkEntry('', TINY, save({'params': weights(3.0)}, tmp_path / 'w.pth'))) == 3.0

    def test_a_bare_state_dict_and_one_of_distributed_training(self, tmp_path):
        assert built_value(NetworkEntry('', TINY, save(weights(4.0), tmp_path / 'bare.pth'))) == 4.0
        wrapped = {f'module.{name}': value for name, value in weights(5.0).items()}
        assert built_value(NetworkEntry('', TINY, save({'params': wrapped}, tmp_path / 'ddp.pth'))) == 5.0

    def test_another_size_names_the_first_weight_that_differs(self, tmp_path):
        path = save({'params': weights(1.0)}, tmp_path / 'w.pth')
        with pytest.raises(InputError) as error:
            NetworkEntry('', {**TINY, 'num_feat': 8}, path).build()
        assert str(error.value) == (
            f'{path} does not fit MSRResNet: conv_first.weight is (4, 3, 3, 3) in it, but (8, 3, 3, 3) in the network.'
        )

    def test_another_depth_names_the_weight_that_is_missing_or_too_many(self, tmp_path):
        path = save({'params': weights(1.0)}, tmp_path / 'w.pth')
        with pytest.raises(InputError, match=r'does not fit MSRResNet: it lacks body\.1\.conv1\.weight'):
            NetworkEntry('', {**TINY, 'num_block': 2}, path).build()
        path = save({'params': NetworkEntry('', {**TINY, 'num_block': 2}).build().state_dict()}, tmp_path / 'w.pth')
        with pytest.raises(InputError, match=r'the network has no body\.1\.conv1\.weight'):
            NetworkEntry('', TINY, path).build()

    def test_a_file_that_runs_code_is_refused(self, tmp_path):
        class Code:
            def __reduce__(self):
                return Path.touch, (tmp_path / 'it_ran',)

        path = save({'params': weights(1.0), 'extra': Code()}, tmp_path / 'unsafe.pth')
        with pytest.raises(InputError, match=f'{path} is not a checkpoint that holds only weights'):
            NetworkEntry('', TINY, path).build()
        assert not (tmp_path / 'it_ran').exists()

    def test_files_that_hold_no_weights(self, tmp_path):
        text = tmp_path / 'text.pth'
        text.write_text('not a checkpoint')
        with pytest.raises(InputError, match=f'{text} is not a checkpoint'):
            NetworkEntry('', TINY, str(text)).build()
        path = save({'epoch': 3, 'optimizers': []}, tmp_path / 'state.pth')
        with pytest.raises(InputError, match=f'{path} holds no weights under params_ema or params'):
            NetworkEntry('', TINY, path).build()
        path = save({'params': weights(1.0)}, tmp_path / 'params.pth')
        with pytest.raises(InputError, match="holds no weights under 'params_ema'; it holds params"):
            NetworkEntry('', TINY, path, 'params_ema').build()

    def test_a_truncated_file(self, tmp_path):
        path = tmp_path / 'w.pth'
        save({'params': weights(1.0)}, path)
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(InputError, match=f'{path} is not a checkpoint'):
            NetworkEntry('', TINY, str(path)).build()

    @pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
    def test_values_that_are_not_finite(self, tmp_path, value):
        state = weights(1.0)
        state['conv_hr.weight'][3, 1, 2, 2] = value
        path = save({'params': state}, tmp_path / 'net.pth')
        with pytest.raises(InputError, match=r'net\.pth: conv_hr\.weight has values that are NaN or infinite'):
            NetworkEntry('', TINY, path).build()

    @pytest.mark.parametrize(
        ('value', 'message'),
        [
            ('text', 'conv_hr.weight is str in it, and no tensor'),
            (None, 'conv_hr.weight is NoneType in it, and no tensor'),
            (lambda like: like.to(torch.complex64), 'conv_hr.weight is torch.complex64'),
            (lambda like: like.to_sparse(), 'torch.sparse_coo in it, and no plain tensor'),
        ],
    )
    def test_values_that_are_no_tensors(self, tmp_path, value, message):
        state = weights(1.0)
        if callable(value):
            value = value(state['conv_hr.weight'])
        path = save({'params': {**state, 'conv_hr.weight': value}}, tmp_path / 'net.pth')
        with pytest.raises(InputError, match=re.escape(message)):
            NetworkEntry('', TINY, path).build()

    def test_keys_that_are_no_text(self, tmp_path):
        path = save({'params': {**weights(1.0), 7: torch.zeros(1)}}, tmp_path / 'net.pth')
        with pytest.raises(InputError, match='the network has no 7'):
            NetworkEntry('', TINY, path).build()

    def test_a_flipped_byte_anywhere(self, tmp_path):
        """The weights are the very ones, or the file is refused; PyTorch itself loads other weights without a word."""
        path = Path(save({'params': weights(1.0)}, tmp_path / 'net.pth'))
        data, silent = path.read_bytes(), 0
        for position in range(0, len(data), 211):
            path.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
            try:
                assert built_value(NetworkEntry('', TINY, str(path))) == 1.0
            except InputError:
                pass
            else:
                silent += 1
        assert silent < len(data) / 211 / 4  # padding, and what the archive says twice

    def test_no_warning_of_untrained_flow_where_a_checkpoint_brings_it(self, tmp_path, caplog, monkeypatch):
        options = {'type': 'EFAR', 'num_feat': 4, 'num_block': 1}
        monkeypatch.setattr(logging.getLogger('basicsr'), 'propagate', True)
        vsr_modules._say_flow_starts_untrained.cache_clear()
        path = save({'params': NetworkEntry('', options).build().state_dict()}, tmp_path / 'net.pth')
        assert vsr_modules.FLOW_STARTS_UNTRAINED in caplog.messages
        vsr_modules._say_flow_starts_untrained.cache_clear()
        caplog.clear()
        NetworkEntry('', options, path).build()
        assert caplog.messages == []

    def test_a_checkpoint_makes_the_file_of_spynet_unnecessary(self, tmp_path):
        options = {'type': 'BasicVSR', 'num_feat': 4, 'num_block': 1}
        path = save({'params': NetworkEntry('', options).build().state_dict()}, tmp_path / 'w.pth')
        entry = NetworkEntry('', {**options, 'spynet_path': str(tmp_path / 'nothing.pth')}, path)
        torch.testing.assert_close(dict(entry.build().state_dict()), torch.load(path)['params'], rtol=0, atol=0)
        assert 'spynet_path' in entry.options  # building changes nothing that the table tells

    def test_random_weights_are_the_same_whatever_came_before(self):
        torch.manual_seed(1)
        first = NetworkEntry('', TINY).build().state_dict()
        torch.manual_seed(2)
        expected = torch.rand(3)
        torch.manual_seed(2)
        second = NetworkEntry('', TINY).build().state_dict()
        torch.testing.assert_close(dict(first), dict(second), rtol=0, atol=0)
        torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
        assert first['conv_first.weight'].std() > 0

    def test_networks_come_in_eval_mode(self):
        assert not any(module.training for module in NetworkEntry('', TINY).build().modules())

    @pytest.mark.parametrize('value', ['many', [8, 8], 0.5])
    def test_an_argument_that_the_network_cannot_use(self, value):
        with pytest.raises(InputError, match='MSRResNet cannot be built: '):
            NetworkEntry('', {**TINY, 'num_feat': value}).build()


def test_bicubic():
    entry = bicubic()
    assert entry.name == 'Bicubic'
    assert entry.build()(torch.zeros(1, 1, 3, 4, 6)).shape == (1, 1, 3, 16, 24)
