"""Regrouping REDS: the validation clips join the training clips, nothing else changes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from basicsr_plugins.data import regroup
from basicsr_plugins.data.regroup import regroup_reds
from basicsr_plugins.errors import InputError

SCRIPT = Path(__file__).resolve().parents[2] / 'scripts' / 'data_preparation' / 'regroup_reds.py'
SMALL = {'num_train_clip': 4, 'num_val_clip': 3, 'num_frame': 2}


def write_clips(root, num_clip, num_frame):
    for clip in range(num_clip):
        (root / f'{clip:03d}').mkdir(parents=True)
        for frame in range(num_frame):
            (root / f'{clip:03d}' / f'{frame:08d}.png').write_text(f'{root.name} {clip} {frame}')
    return root


def contents(root):
    return {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob('*') if path.is_file()}


@pytest.fixture
def reds(tmp_path):
    return write_clips(tmp_path / 'train', 4, 2), write_clips(tmp_path / 'val', 3, 2)


@pytest.mark.parametrize('link', [False, True])
def test_validation_clips_come_after_the_training_clips(reds, link):
    train, val = reds
    before = {**contents(train)}
    assert regroup_reds(train, val, link, **SMALL) == 3
    added = {f'{clip + 4:03d}/{frame:08d}.png': f'val {clip} {frame}' for clip in range(3) for frame in range(2)}
    assert contents(train) == {**before, **added}
    assert (train / '004' / '00000000.png').samefile(val / '000' / '00000000.png') == link
    assert regroup_reds(train, val, link, **SMALL) == 0


def test_interrupted_run_is_taken_up_again(reds, monkeypatch):
    train, val = reds
    copied = []

    def interrupted(source, target):
        copied.append(Path(source).relative_to(val).as_posix())
        if len(copied) == 4:
            Path(target).write_text('half a fra')
            raise KeyboardInterrupt
        return copy(source, target)

    copy = shutil.copy2
    monkeypatch.setattr(regroup.shutil, 'copy2', interrupted)
    with pytest.raises(KeyboardInterrupt):
        regroup_reds(train, val, **SMALL)
    assert {path.parent.name for path in train.glob('[!.]*/*')} == {'000', '001', '002', '003', '004'}
    assert regroup_reds(train, val, **SMALL) == 2
    assert copied[4:] == ['001/00000000.png', '001/00000001.png', '002/00000000.png', '002/00000001.png']
    assert contents(train)['005/00000001.png'] == 'val 1 1'
    assert not list(train.glob('.*'))


def test_a_clip_that_is_no_copy_is_not_overwritten(reds):
    train, val = reds
    shutil.copytree(train / '000', train / '005')
    before = contents(train)
    with pytest.raises(InputError, match=r'005 is there already and 00000000\.png is not that of .*val/001'):
        regroup_reds(train, val, **SMALL)
    assert contents(train) == before


def test_counts_are_checked_before_anything_is_copied(reds):
    train, val = reds
    before = contents(train)

    def refused(message):
        with pytest.raises(InputError, match=message):
            regroup_reds(train, val, **SMALL)

    (val / '001' / '00000001.png').rename(val.parent / 'lost.png')
    refused('clip 001 in .*val has 1 frames, not 2')
    (val.parent / 'lost.png').rename(val / '001' / '00000001.png')
    shutil.move(val / '002', val.parent / 'lost')
    refused('clip 002 is missing in .*val, which should hold 3 clips')
    shutil.move(val.parent / 'lost', val / '002')
    shutil.copytree(val / '002', val / '003')
    refused('clip 003 does not belong there in .*val')
    shutil.rmtree(val / '003')
    shutil.move(train / '003', train.parent / 'lost')
    refused('clip 003 is missing in .*train, which should hold 4 clips')
    shutil.move(train.parent / 'lost', train / '003')
    assert contents(train) == before


def test_link_across_file_systems_is_explained(reds, monkeypatch):
    def link(source, target):
        raise OSError(18, os.strerror(18), str(source), None, str(target))

    monkeypatch.setattr(regroup.os, 'link', link)
    with pytest.raises(
        InputError, match=r'004 cannot be a link, on another disk than .*val/000; copy instead of linking'
    ):
        regroup_reds(*reds, link=True, **SMALL)


def test_script_regroups_ground_truth_and_low_resolution(tmp_path):
    for part in ('', '_bicubic/X4'):
        write_clips(tmp_path / f'train_sharp{part}', 240, 100 if part == '' else 1)
        write_clips(tmp_path / f'val_sharp{part}', 30, 100 if part == '' else 1)

    def run(*args):
        command = [sys.executable, str(SCRIPT), '--root', str(tmp_path), '--link', *args]
        return subprocess.run(command, capture_output=True, text=True)

    done = run('--only', 'gt')
    assert done.returncode == 0, done.stderr
    assert 'train_sharp holds 270 clips, 30 added now' in done.stdout
    for i in range(30):
        assert (tmp_path / f'train_sharp/{240 + i}/00000099.png').read_text() == f'val_sharp {i} 99'
    both = run()
    assert both.returncode == 1
    assert 'train_sharp holds 270 clips, 0 added now' in both.stdout
    assert both.stderr.splitlines()[-1].startswith(f'error: clip 000 in {tmp_path}/val_sharp_bicubic/X4 has 1 frames')
