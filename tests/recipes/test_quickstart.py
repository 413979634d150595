"""The quickstart's table, sheet and scripts. The whole quickstart takes minutes: run `bash scripts/quickstart.sh`."""

import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import quickstart
import training
import yaml
from comparison import comparison_sheet, comparison_table, read_metrics

from basicsr_plugins.benchmark.evaluation import most_different
from basicsr_plugins.data.demo_data import CLIPS, HELD_OUT
from basicsr_plugins.errors import InputError
from basicsr_plugins.upscaling import load_network
from basicsr_plugins.video.opening import open_source

PROJECT = Path(__file__).resolve().parents[2]
TOOLS = ('bash', 'cat', 'dirname', 'env', 'grep', 'ls', 'rm', 'tail', 'tee')

METRICS = """dataset,iter,clip,psnr,ssim
demo,100,000,20.0,0.5
demo,100,average,20.0,0.5
demo,200,000,24.0,0.75
demo,200,001,26.0,0.85
demo,200,average,25.0,0.80
"""


# ---------------------------------------------------------------- table


def test_metrics_are_those_of_the_last_validation(tmp_path):
    path = tmp_path / 'metrics.csv'
    path.write_text(METRICS)
    assert read_metrics(path) == {
        '000': {'psnr': 24.0, 'ssim': 0.75},
        '001': {'psnr': 26.0, 'ssim': 0.85},
        'average': {'psnr': 25.0, 'ssim': 0.80},
    }


def test_metrics_of_an_unfinished_test_are_refused(tmp_path):
    path = tmp_path / 'metrics.csv'
    with pytest.raises(InputError, match=r'metrics\.csv is missing'):
        read_metrics(path)
    for text in (METRICS.splitlines()[0], METRICS.rsplit('demo,', 1)[0]):
        path.write_text(text)
        with pytest.raises(InputError, match='no average'):
            read_metrics(path)


def test_table_lists_every_clip_and_the_gain():
    bicubic = {
        'b': {'psnr': 20.0, 'ssim': 0.5},
        'a': {'psnr': 30.0, 'ssim': 0.9},
        'average': {'psnr': 25.0, 'ssim': 0.7},
    }
    efar = {
        'a': {'psnr': 31.25, 'ssim': 0.92},
        'b': {'psnr': 19.5, 'ssim': 0.5},
        'average': {'psnr': 25.375, 'ssim': 0.71},
    }
    rows = [line.split() for line in comparison_table(('bicubic', bicubic), ('EFAR', efar)).splitlines()]
    assert [row[0] for row in rows] == ['clip', 'a', 'b', 'average']
    assert rows[1] == ['a', '30.00', '/', '0.9000', '31.25', '/', '0.9200', '+1.25', 'dB', '+0.0200']
    assert rows[2][-3:] == ['-0.50', 'dB', '+0.0000']
    del efar['a']
    with pytest.raises(InputError, match='test both anew'):
        comparison_table(('bicubic', bicubic), ('EFAR', efar))


# ---------------------------------------------------------------- sheet


def test_window_is_where_the_pictures_differ_most():
    first = np.full((60, 80, 3), 100, np.uint8)
    second = first.copy()
    second[37:47, 21:36] = 140
    second[0, 0] = 255  # a lone pixel does not count as much
    assert most_different(first, second, (10, 15)) == (37, 21)
    assert most_different(second, first, (10, 15)) == (37, 21)


def test_window_may_touch_the_border_or_be_the_whole_picture():
    first, second = np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30, 3), np.uint8)
    second[-5:, -6:] = 9
    assert most_different(first, second, (5, 6)) == (15, 24)
    assert most_different(first, second, (20, 30)) == (0, 0)


def test_sheet_shows_each_picture_and_its_enlarged_window():
    rng = np.random.default_rng(0)
    pictures = {name: rng.integers(0, 256, (48, 64, 3), np.uint8) for name in ('LQ', 'bicubic', 'GT')}
    sheet = comparison_sheet(pictures, (8, 20, 12, 16), zoom=4)
    label, gap = 28, 8
    assert sheet.shape == (label + 48 + gap + 48, 3 * 64 + 2 * gap, 3)
    for column, picture in enumerate(pictures.values()):
        left = column * (64 + gap)
        shown = sheet[label : label + 48, left : left + 64]
        assert np.array_equal(shown[9:19, 21:35], picture[9:19, 21:35])  # inside the frame around the window
        assert np.array_equal(shown[:8], picture[:8])
        assert not np.array_equal(shown[8, 20:36], picture[8, 20:36])  # the frame itself
        crop = sheet[label + 48 + gap :, left : left + 64]
        assert np.array_equal(crop[::4, ::4], picture[8:20, 20:36])
        assert np.array_equal(crop[3::4, 3::4], picture[8:20, 20:36])
        assert sheet[:label, left : left + 64].max() == 255  # the label
    assert len({picture.tobytes() for picture in pictures.values()}) == 3  # none was written on


# ---------------------------------------------------------------- the job


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A project folder in which BasicSR's part is done: returns a function that writes EFAR's results."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'options').symlink_to(PROJECT / 'options')
    clips = [clip for clip in CLIPS if clip.name in HELD_OUT]
    monkeypatch.setattr(quickstart, 'make_demo_data', lambda root: None)
    monkeypatch.setattr(quickstart, 'pack_folder', lambda *_: None)
    monkeypatch.setattr(quickstart, 'load_network', lambda *_: load_network(None, 'Bicubic'))
    monkeypatch.setattr(quickstart, 'load_motion', lambda root, name: {'num_frame': 4})
    for clip in clips:
        for kind, size in (('GT', (32, 64)), ('BIx4', (8, 16))):
            write_picture(Path(f'datasets/demo/{kind}/{clip.name}/00000002.png'), size)
    models = Path('experiments/EFAR_demo/models')
    models.mkdir(parents=True)
    total_iter = yaml.safe_load(quickstart.TRAIN.read_text())['train']['total_iter']
    for name in ('latest', total_iter):
        (models / f'net_g_{name}.pth').touch()

    def results(gain):
        def run(module, option_file, results):
            assert module == 'basicsr.test'
            name = yaml.safe_load(option_file.read_text())['name']
            psnr = 25 + (gain if name == 'EFAR_demo' else 0)
            rows = [f'demo,{name},{clip},{psnr},0.7' for clip in (*HELD_OUT, 'average')]
            folder = Path('results') / name
            folder.mkdir(parents=True)
            (folder / 'metrics.csv').write_text('\n'.join(['dataset,iter,clip,psnr,ssim', *rows]))
            for clip in clips:
                write_picture(folder / f'visualization/demo/{clip.name}/00000002_{name}.png', (32, 64))

        monkeypatch.setattr(training, 'run_toolbox', run)

    return results


def write_picture(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))


def test_results_are_printed_and_their_paths_last(finished, capsys):
    finished(gain=0.5)
    assert quickstart.quickstart() == 0
    lines = capsys.readouterr().out.splitlines()
    assert any('experiments/EFAR_demo is trained already' in line for line in lines)
    films = ['000.mp4', '000_bicubic_and_EFAR.mp4', '000_efar-s-bicubic.mp4']
    names = ['table.txt', *(f'{clip}.png' for clip in HELD_OUT), *films]
    assert lines[-7:] == [f'results/quickstart/{name}' for name in names]
    assert all(Path(line).is_file() for line in lines[-7:])
    assert [open_source(f'results/quickstart/{name}').size for name in films] == [(32, 64), (32, 128), (32, 64)]
    assert '+0.50 dB' in Path('results/quickstart/table.txt').read_text()


def test_efar_below_bicubic_fails_loudly(finished, capsys):
    finished(gain=-0.25)
    assert quickstart.quickstart() == 1
    assert 'error: EFAR ends 0.25 dB below bicubic' in capsys.readouterr().err


def test_a_run_that_fails_names_its_log(tmp_path, monkeypatch, capsys):
    (tmp_path / 'broken.py').write_text('print("the reason")\nraise SystemExit(3)\n')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    with pytest.raises(InputError, match=r'exit code 3; .*broken_some\.log says why'):
        training.run_toolbox('broken', Path('options/some.yml'), tmp_path)
    assert capsys.readouterr().err == 'the reason\n'


def test_progress_line_of_the_toolbox_is_understood():
    line = (
        '2026-01-01 12:00:00,000 INFO: [EFAR_..][epoch:  3, iter:   1,240, lr:(1.000e-03,)] '
        '[eta: 0:01:00, time (data): 0.500 (0.001)] l_pix: 2.5000e-02 '
    )
    assert quickstart.ITERATION.search(line).groups() == ('1,240', '2.5000e-02')


def test_option_files_agree_with_each_other_and_with_the_data():
    train, efar, bicubic = (
        yaml.safe_load((PROJECT / path).read_text())
        for path in (quickstart.TRAIN, *reversed(quickstart.TESTS.values()))
    )
    assert efar['network_g'] == train['network_g']
    assert efar['path']['pretrain_network_g'] == f'experiments/{train["name"]}/models/net_g_latest.pth'
    assert bicubic['datasets'] == efar['datasets']
    assert bicubic['val'] == efar['val']
    assert efar['datasets']['test']['val_partition'] == train['datasets']['train']['val_partition'] == list(HELD_OUT)
    options = train['datasets']['train']
    num_frame = (options['num_frame'] - 1) * max(options['interval_list']) + 1
    assert all(num_frame <= clip.num_frame and options['gt_size'] <= min(clip.size) for clip in CLIPS)


# ---------------------------------------------------------------- the environment script


@pytest.fixture
def bare(tmp_path):
    """A copy of the scripts in a folder with a blank, and an environment without any Python."""
    project, tools = tmp_path / 'a project', tmp_path / 'tools'
    shutil.copytree(PROJECT / 'scripts', project / 'scripts')
    shutil.copy(PROJECT / 'setup.py', project)
    tools.mkdir()
    for tool in TOOLS:
        (tools / tool).symlink_to(shutil.which(tool))
    environment = {'PATH': str(tools), 'HOME': str(tmp_path)}

    def run(name, *arguments, **variables):
        command = [shutil.which('bash'), str(project / 'scripts' / name), *arguments]
        return subprocess.run(command, env={**environment, **variables}, cwd='/', capture_output=True, text=True)

    run.project, run.tools = project, tools
    return run


def fake_python(path, version, has_venv=True):
    """A Python that knows its version, and whether it has the venv module."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'#!/usr/bin/env bash\ncase "$2" in *version_info*) echo {version} ;; *) {str(has_venv).lower()} ;; esac\n'
    )
    path.chmod(0o755)


@pytest.mark.parametrize('script', ['quickstart.sh', 'test.sh'])
def test_no_python_is_one_line_that_says_what_to_install(bare, script):
    result = bare(script)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert 'no Python from 3.9 to 3.13' in result.stderr
    assert 'sudo apt install python3.11 python3.11-venv' in result.stderr
    assert not result.stdout
    assert not (bare.project / '.venv').exists()


def test_too_old_and_too_new_pythons_count_as_none(bare):
    fake_python(bare.tools / 'python3', '3.8')
    fake_python(bare.tools / 'python', '3.14')
    assert 'no Python from 3.9 to 3.13' in bare('test.sh').stderr


def test_missing_venv_module_is_named(bare):
    fake_python(bare.tools / 'python3', '3.10', has_venv=False)
    result = bare('test.sh')
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        'error: Python 3.10 has no venv module; install it, for example: sudo apt install python3.10-venv'
    ]


def test_newest_python_with_venv_is_taken_also_from_pyenv(bare, tmp_path):
    fake_python(bare.tools / 'python3.12', '3.12', has_venv=False)
    fake_python(tmp_path / '.pyenv/versions/3.11.7/bin/python', '3.11')
    fake_python(bare.tools / 'python3.9', '3.9')
    assert f'making .venv with {tmp_path}/.pyenv/versions/3.11.7/bin/python (3.11)' in bare('test.sh').stderr


def test_wrong_choice_of_python_is_refused(bare, tmp_path):
    fake_python(tmp_path / 'old', '3.7')
    for choice in (str(tmp_path / 'old'), '/nonexistent/python'):
        result = bare('test.sh', PYTHON=choice)
        assert result.returncode == 1
        assert f"$PYTHON is '{choice}'" in result.stderr


def test_complete_environment_is_used_as_it_is(bare):
    """Only the stamp is compared: no pip, no network."""
    python = bare.project / '.venv/bin/python'
    python.parent.mkdir(parents=True)
    python.write_text('#!/usr/bin/env bash\n[ "$1" = -c ] && echo stamp || echo "$@"\n')
    python.chmod(0o755)
    (bare.project / '.venv/installed').write_text('stamp\n')
    result = bare('test.sh', '-k', 'some tests')
    assert (result.returncode, result.stdout, result.stderr) == (0, '-m pytest -k some tests\n', '')
    (bare.project / '.venv/installed').write_text('stamp of an older setup.py\n')
    assert bare('test.sh').stdout == ''  # it goes to install, for which this one has no Python
