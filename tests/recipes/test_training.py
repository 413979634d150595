"""The recipes' one way to train: what is run, what is kept, and what is refused."""

from pathlib import Path

import pytest
import training
import yaml

from basicsr_plugins.errors import InputError

OPTIONS = {'name': 'small', 'train': {'total_iter': 20}}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """What would be run, in a project folder of its own: option files and further arguments."""
    monkeypatch.chdir(tmp_path)
    done = []

    def run_toolbox(module, option_file, results, arguments, show, threads):
        assert (module, results, threads) == ('basicsr.train', Path('results'), 1)
        done.append((yaml.safe_load(option_file.read_text()), arguments))

    monkeypatch.setattr(training, 'run_toolbox', run_toolbox)
    return done


def finish(*names):
    models = Path('experiments/small/models')
    models.mkdir(parents=True, exist_ok=True)
    for name in names:
        (models / f'net_g_{name}.pth').touch()


def test_an_interrupted_training_is_resumed_and_a_finished_one_kept(runs, capsys):
    folder = Path('experiments/small')
    assert training.train_with(OPTIONS, Path('results')) == folder
    finish(20)  # the last checkpoint, before the end
    assert training.train_with(OPTIONS, Path('results')) == folder
    assert runs == [(OPTIONS, ['--auto_resume'])] * 2
    finish('latest')
    assert training.train_with(OPTIONS, Path('results')) == folder
    assert len(runs) == 2
    assert capsys.readouterr().out == 'experiments/small is trained already\n'
    training.train(Path('results/small.yml'), Path('results'), fresh=True)
    assert runs[2:] == [(OPTIONS, [])]


def test_a_longer_training_is_not_the_finished_one(runs):
    finish('latest', 10)
    Path('longer.yml').write_text(yaml.safe_dump(OPTIONS))
    training.train(Path('longer.yml'), Path('results'))
    assert runs == [(OPTIONS, ['--auto_resume'])]


def test_a_training_of_the_same_name_with_other_options_is_refused(runs):
    training.train_with(OPTIONS, Path('results'))
    finish(10)
    with pytest.raises(
        InputError, match=r'experiments/small was trained with other options than now; move it away, or'
    ):
        training.train_with({**OPTIONS, 'train': {'total_iter': 30}}, Path('results'))
    assert len(runs) == 1
    assert yaml.safe_load(Path('results/small.yml').read_text()) == OPTIONS
