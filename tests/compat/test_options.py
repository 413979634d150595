"""Option files are read as data, checked at start, and send output to the current folder."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import yaml
from basicsr.utils import options

from basicsr_plugins.compat.options import SafeOptionLoader, output_root
from basicsr_plugins.errors import InputError

COMPLETE = """
name: x
model_type: {model}
num_gpu: {gpu}
datasets: {{train: {{type: {dataset}}}}}
path: {{}}
train: {{}}
logger: {{}}
"""
CODE = '!!python/object/apply:os.mkdir [%s]'


def test_option_file_cannot_run_code(tmp_path):
    text = f'name: {CODE % (tmp_path / "made")}'
    yaml.load(text, Loader=yaml.UnsafeLoader)
    assert (tmp_path / 'made').exists()  # what the toolbox's loader does
    (tmp_path / 'made').rmdir()

    toolbox_loader = options.ordered_yaml.__wrapped__()[0]
    assert not issubclass(toolbox_loader, (yaml.SafeLoader, getattr(yaml, 'CSafeLoader', yaml.SafeLoader)))

    with pytest.raises(yaml.constructor.ConstructorError, match='python/object/apply'):
        yaml.load(text, Loader=options.ordered_yaml()[0])
    assert not (tmp_path / 'made').exists()


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('!!float 1e-4', 1e-4),
        ('!!float 5e3', 5000.0),
        ('4e-4', 4e-4),
        ('1E5', 1e5),
        ('-2.5e-3', -2.5e-3),
        ('0.99', 0.99),
        ('[0.9, 0.99]', [0.9, 0.99]),
        ('300000', 300000),
        ('True', True),
        ('false', False),
        ('~', None),
        ('1e4x', '1e4x'),
        ('REDS4', 'REDS4'),
        ("'000'", '000'),
    ],
)
def test_numbers(text, value):
    read = yaml.load(f'key: {text}', Loader=SafeOptionLoader)['key']
    assert read == value
    assert type(read) is type(value)


def test_order_of_keys_and_anchors():
    text = 'b: &base {z: 1, a: 2}\na:\n  <<: *base\n  c: 3\n'
    read = yaml.load(text, Loader=SafeOptionLoader)
    assert list(read) == ['b', 'a']
    assert dict(read['a']) == {'z': 1, 'a': 2, 'c': 3}


def parse(monkeypatch, path, *arguments):
    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', str(path), *arguments])
    return options.parse_options(str(Path(path).parent))


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (None, 'No such file'),
        ('name: x', "the key 'model_type' is missing"),
        ('', 'holds no options'),
        ('name: [', 'is not a YAML file'),
        (f'name: {CODE % "made"}', 'is not a YAML file of plain data'),
        (COMPLETE.format(gpu=2, model='VSRModel', dataset='VSRTrainDataset'), 'num_gpu: 2 is asked for'),
        (
            COMPLETE.format(gpu=0, model='VSRModle', dataset='VSRTrainDataset'),
            "model_type: .* 'VSRModle' .* 'VSRModel'",
        ),
        (
            COMPLETE.format(gpu=0, model='VSRModel', dataset='VSRTrain'),
            "train: type: .* did you mean 'VSRTrainDataset'",
        ),
        (COMPLETE.replace('logger: {{}}', '').format(gpu=0, model='x', dataset='y'), "the key 'logger' is missing"),
    ],
)
def test_bad_option_file_is_one_sentence(monkeypatch, tmp_path, text, message):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    path = tmp_path / 'options.yml'
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        parse(monkeypatch, path)
    assert '\n' not in str(caught.value)
    assert text is None or 'train' in text or str(path) in str(caught.value)


def test_output_root():
    assert output_root('/usr/lib/python3/site-packages') == Path.cwd()
    assert output_root('/usr/lib/python3/dist-packages') == Path.cwd()
    assert output_root('/srv/BasicSR') == Path('/srv/BasicSR')


def test_python_m_writes_into_the_current_folder(monkeypatch, tmp_path):
    """The toolbox itself writes beside its package, wherever that is."""
    path = tmp_path / 'options.yml'
    path.write_text(COMPLETE.format(gpu=0, model='VSRModel', dataset='VSRTrainDataset'))
    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', str(path)])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.modules['__main__'], '__spec__', ModuleSpec('basicsr.train', None))
    opt, _ = options.parse_options.__wrapped__('/opt/lib')
    assert opt['path']['experiments_root'] == '/opt/lib/experiments/x'
    opt, _ = options.parse_options('/opt/lib')
    assert opt['path']['experiments_root'] == str(tmp_path / 'experiments' / 'x')


def test_scripts_end_with_one_line(run, tmp_path):
    """No traceback, exit code 1: from the module and from a script that imports BasicSR."""
    for module in ('basicsr.train', 'basicsr.test'):
        result = run('python', '-W', 'ignore', '-m', module, '-opt', 'missing.yml', cwd=tmp_path, check=False)
        assert result.returncode == 1
        assert result.stderr.strip() == 'error: -opt missing.yml: No such file or directory.'
