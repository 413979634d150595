"""`scripts/benchmark.py` as a user runs it."""

import csv
import json
import time

import cv2
import pytest

from basicsr_plugins.commands.benchmark import main
from basicsr_plugins.errors import run_script

from .benchmark.conftest import LENGTHS, make_test_set
from .conftest import PROJECT

SCRIPT = PROJECT / 'scripts' / 'benchmark.py'
QUICK = ('--profile-size', '8x8', '--profile-frames', '1', '--profile-repeat', '1')
NETWORKS = (
    *('--network', 'tiny=MSRResNet:num_feat=4,num_block=1'),
    *('--network', 'wrong scale=MSRResNet:num_feat=4,num_block=1,upscale=2'),
)


@pytest.fixture(scope='module')
def test_set(tmp_path_factory):
    return make_test_set(tmp_path_factory.mktemp('test_set'))


@pytest.fixture(scope='module')
def one_process(test_set, run, tmp_path_factory):
    """What one process makes of two clips: its folder, and what it printed."""
    folder = tmp_path_factory.mktemp('one_process')
    result = run('python', SCRIPT, '--data', test_set, *NETWORKS, *QUICK, '-o', 'out', cwd=folder)
    return folder / 'out', result.stdout


def read_results(folder):
    return json.loads((folder / 'results.json').read_text())


def quality(folder):
    """What does not depend on the clock: for each row its name, values and error."""
    return [
        [row[key] for key in ('name', 'clips', 'average', 'error', 'params', 'macs')]
        for row in read_results(folder)['rows']
    ]


def test_leaves_a_table_and_documents_that_agree(one_process, test_set):
    out, printed = one_process
    results = read_results(out)
    assert [row['name'] for row in results['rows']] == ['Bicubic', 'tiny', 'wrong scale']
    assert results['clips'] == list(LENGTHS)
    assert results['settings']['lq'] == str(test_set / 'BIx4')
    assert f'--data {test_set}' in results['command']
    bicubic, tiny, wrong = results['rows']
    assert bicubic['error'] is tiny['error'] is None
    assert tiny['random_weights'] is True
    assert bicubic['average']['psnr'] > tiny['average']['psnr']
    assert 'scale is 4, but MSRResNet upscales by 2 (it can be built for 2, 3, 4)' in wrong['error']

    lines = printed.splitlines()
    (shown,) = (
        line.split() for line in lines if line.startswith('Bicubic') and f'{bicubic["average"]["psnr"]:.2f}' in line
    )
    assert f'{bicubic["average"]["ssim"]:.4f}' in shown
    assert any(line.startswith('tiny (random weights)') for line in lines)
    assert any('failed: scale is 4, but MSRResNet upscales by 2' in line for line in lines)
    assert lines[-3:] == ['out/results.csv', 'out/results.json', 'out/report.html']

    with open(out / 'results.csv', newline='') as file:
        table = {(line['method'], line['clip']): line for line in csv.DictReader(file)}
    assert len(table) == 9
    for row in (bicubic, tiny):
        for clip, values in (*row['clips'].items(), ('average', row['average'])):
            for name, value in values.items():
                assert float(table[row['name'], clip][name]) == value
    page = (out / 'report.html').read_text()
    assert 'wrong scale' in page
    assert f'{tiny["clips"]["b"]["psnr"]:.2f}' in page
    for clip in LENGTHS:
        shown = results['pictures'][clip]['methods']
        assert list(shown) == ['Bicubic', 'tiny', 'GT']
        gt = cv2.imread(str(out / shown['GT']['frame']))
        middle = LENGTHS[clip] // 2
        assert (gt == cv2.imread(str(test_set / 'GT' / clip / f'{middle:08d}.png'))).all()
        assert cv2.imread(str(out / shown['tiny']['profile'])).shape == (LENGTHS[clip], gt.shape[1], 3)


def test_torchrun_makes_the_same_table(one_process, test_set, run, tmp_path):
    torchrun = ('python', '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2')
    result = run(*torchrun, SCRIPT, '--data', test_set, *NETWORKS, *QUICK, '-o', 'out', cwd=tmp_path)
    assert quality(tmp_path / 'out') == quality(one_process[0])
    assert result.stdout.count('tiny (random weights)') == one_process[1].count('tiny (random weights)')
    assert read_results(tmp_path / 'out')['pictures'].keys() == LENGTHS.keys()


def test_killed_it_goes_on_to_the_same_numbers(one_process, test_set, start_forked, run_forked, tmp_path):
    command = [SCRIPT, '--data', test_set, *NETWORKS, *QUICK, '-o', 'out']
    process = start_forked(*command, cwd=tmp_path)
    cache = tmp_path / 'out' / 'cache'
    first = None
    while process.poll() is None and first is None:  # until the first result is there
        first = next(cache.glob('*/clip_*.json'), None) if cache.is_dir() else None
        time.sleep(0.01)
    process.kill()
    assert first is not None
    assert not (tmp_path / 'out' / 'results.json').exists()
    written = first.stat().st_mtime_ns, first.stat().st_ino

    run_forked(*command, cwd=tmp_path)
    assert quality(tmp_path / 'out') == quality(one_process[0])
    assert (first.stat().st_mtime_ns, first.stat().st_ino) == written


# ------------------------------------------------------------------------------------------------------ what is wrong


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ('--network Nope', "--network Nope: there is no network 'Nope' in the registry; "),
        ('--network EDVR:num_feats=8', "there is no key 'num_feats'; did you mean 'num_feat'?"),
        ('--network EDVR:num_feat', "--network EDVR:num_feat: 'num_feat' must read KEY=VALUE."),
        ('--network EDVR:num_feat=[', "--network EDVR:num_feat=[: '[' is not a value in YAML."),
        ('--network @w.pth', '--network @w.pth must read TYPE:KEY=VALUE,KEY=VALUE@CHECKPOINT or FILE.yml@CHECKPOINT.'),
        ('--network EDVR@nothing.pth', 'EDVR: there is no checkpoint nothing.pth.'),
        ('--network EDVR --network EDVR:num_feat=8', 'two methods are called EDVR; give one another name (NAME=...).'),
        ('--network x=frames:nowhere', 'x: there is no folder nowhere/a with the restored frames of clip a.'),
        ('--network frames:nowhere', 'frames:nowhere needs a name for the table: NAME=frames:nowhere.'),
        ('--network nothing.yml', 'nothing.yml: No such file or directory.'),
        ('--config nothing.yml', 'nothing.yml: No such file or directory.'),
        ('--published nothing.csv', 'published table nothing.csv: No such file or directory.'),
        ('--clips a nope', '/BIx4; there are a, b.'),
        ('--data nowhere', 'error: there is no folder nowhere.'),
        ('--lq nowhere', 'give either --data, or --lq and --gt.'),
        ('--scale 2', 'found no folder of LQ clips (BIx2, BI'),
        ('--frames inner --max-frames 4', 'clip a has 4 frames: none is left without the first and last two.'),
        ('--crop-border 30', 'clip a: GT is 64x48, of which a border of 30 px leaves less than'),
        ('--crop-border -1', '--crop-border must not be negative, but is -1.'),
        ('--max-frames 0', '--max-frames must be at least 1, but is 0.'),
        ('--profile-size 180', "--profile-size must read HEIGHTxWIDTH, as in 180x320, but is '180'."),
        ('--profile-size 0x8', "--profile-size must read HEIGHTxWIDTH, as in 180x320, but is '0x8'."),
        ('--device nothing', 'device nothing cannot be used: '),
    ],
)
def test_bad_input_is_one_sentence(test_set, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        run_script(lambda: main(['--data', str(test_set), *arguments.split()]))
    assert end.value.code == 1
    printed = capsys.readouterr()
    assert printed.out == ''
    assert printed.err.startswith('error: ')
    assert printed.err.count('\n') == 1
    assert message in printed.err
    assert list(tmp_path.iterdir()) == []


def test_bad_input_ends_the_command_with_an_error(run_forked, test_set, tmp_path):
    result = run_forked(SCRIPT, '--network', 'Nope', '--data', test_set, cwd=tmp_path, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("error: --network Nope: there is no network 'Nope' in the registry; valid ones ")
    assert result.stderr.count('\n') == 1
    assert result.stdout == ''
