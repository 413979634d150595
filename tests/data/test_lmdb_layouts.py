"""What holds for LMDBs of PNGs holds for the other layouts; conversion; sources that were replaced; damaged pages."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import cv2
import lmdb
import numpy as np
import pytest

from basicsr_plugins.commands import lmdb as command
from basicsr_plugins.data import lmdb_store
from basicsr_plugins.data.lmdb_store import pack_lmdb, pack_reds
from basicsr_plugins.data.lmdb_verification import verify_lmdb
from basicsr_plugins.data.vsr_train_dataset import VSRTrainDataset
from basicsr_plugins.errors import InputError

from .test_lmdb_store import change, contents, run_script, write_clip

OTHERS = ['raw', 'tiles']


@pytest.fixture
def clips(tmp_path):
    """Colour, another size, alpha and grey."""
    source = tmp_path / 'clips'
    write_clip(source / '000', 5, (70, 90, 3))
    write_clip(source / '001', 3, (8, 10, 3), '.bmp', seed=1)
    write_clip(source / 'nested' / 'a', 2, (65, 64, 4), seed=2)
    write_clip(source / 'nested' / 'b', 2, (8, 10), seed=3)
    return source


@pytest.mark.parametrize('layout', OTHERS)
def test_conversion_there_and_back(clips, tmp_path, layout):
    png, other, back = (tmp_path / f'{name}.lmdb' for name in ('png', layout, 'back'))
    command.main(['folder', str(clips), str(png), '--num-worker', '0'])
    command.main(['convert', str(png), str(other), '--layout', layout, '--num-worker', '2', '--verify'])
    assert verify_lmdb(other, clips, num_worker=0) == 12
    command.main(['convert', str(other), str(back), '--num-worker', '0', '--verify'])
    assert contents(back) == contents(png)
    assert (back / 'meta_info.txt').read_bytes() == (png / 'meta_info.txt').read_bytes()
    assert '000/00000000.png (70,90,3)' in (other / 'meta_info.txt').read_text()

    from_folder = tmp_path / 'from_folder.lmdb'
    pack_lmdb(clips, from_folder, num_worker=0, layout=layout)
    assert contents(from_folder) == contents(other)
    with pytest.raises(InputError, match=f'is there already, with layout {layout}, not png'):
        pack_lmdb(clips, from_folder, num_worker=0)
    with pytest.raises(InputError, match='would lie in its own source'):
        pack_lmdb(from_folder, from_folder, num_worker=0)


KILLED = """
import os, signal, sys
from basicsr_plugins.data import lmdb_store

commit, calls = lmdb_store._commit, []

def commit_or_die(env, batch):
    calls.append(len(batch))
    if len(calls) == 3:
        with env.begin(write=True) as txn:
            key, data = batch.popitem()
            txn.put(key.encode(), data)
            os.kill(os.getpid(), signal.SIGKILL)
    commit(env, batch)

lmdb_store.COMMIT_BYTES = 2**19
lmdb_store._commit = commit_or_die
lmdb_store.pack_lmdb(sys.argv[1], sys.argv[2], num_worker=0, layout=sys.argv[3])
"""


@pytest.mark.parametrize('layout', OTHERS)
def test_killed_run_resumes_from_what_it_committed(tmp_path, layout):
    """In the middle of its third transaction."""
    source = tmp_path / 'clips'
    write_clip(source / '000', 20, (200, 300, 3), '.bmp')  # 180 kB each
    target = tmp_path / 'x.lmdb'
    killed = subprocess.run([sys.executable, '-c', KILLED, source, target, layout], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not target.exists()
    assert len(contents(tmp_path / 'x.lmdb.partial')) == 6

    assert pack_lmdb(source, target, num_worker=0, layout=layout) == 14
    assert verify_lmdb(target, source, num_worker=0) == 20
    undisturbed = tmp_path / 'undisturbed.lmdb'
    pack_lmdb(source, undisturbed, num_worker=0, layout=layout)
    assert contents(target) == contents(undisturbed)


def test_layout_of_an_interrupted_run(clips, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(lmdb_store, '_encode', full)
        with pytest.raises(InputError, match=r'cannot be written \(.*No space left'):
            pack_lmdb(clips, tmp_path / 'x.lmdb', num_worker=0, layout='raw')
    with pytest.raises(InputError, match=r'begun with other input \(layout was raw, is tiles\)'):
        pack_lmdb(clips, tmp_path / 'x.lmdb', num_worker=0, layout='tiles')
    assert pack_lmdb(clips, tmp_path / 'x.lmdb', num_worker=0, layout='tiles', force=True) == 12  # the stale one goes
    assert verify_lmdb(tmp_path / 'x.lmdb', clips, num_worker=0) == 12


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'layout': 'tile'}, "there is no layout 'tile'; did you mean 'tiles'?"),
        ({'layout': 'raw', 'compress_level': 3}, 'the layout raw has no compression level; leave it out.'),
    ],
)
def test_unusable_settings(clips, tmp_path, options, message):
    with pytest.raises(InputError) as caught:
        pack_lmdb(clips, tmp_path / 'x.lmdb', num_worker=0, **options)
    assert str(caught.value) == message


def test_16_bit_frames_are_named(tmp_path):
    (tmp_path / 'clips' / 'a').mkdir(parents=True)
    cv2.imwrite(str(tmp_path / 'clips' / 'a' / '0.png'), np.zeros((6, 7), np.uint16))
    with pytest.raises(InputError, match=r'a/0\.png has 16 bits per value, and the layout tiles only 8'):
        pack_lmdb(tmp_path / 'clips', tmp_path / 'x.lmdb', num_worker=0, layout='tiles')


@pytest.mark.parametrize('layout', OTHERS)
def test_verify_names_the_damaged_frame(clips, tmp_path, layout):
    path = tmp_path / 'x.lmdb'
    pack_lmdb(clips, path, num_worker=0, layout=layout)
    value = bytearray(contents(path)[b'000/00000002'])
    value[-9] ^= 1
    change(path, b'000/00000002', bytes(value))
    with pytest.raises(InputError, match=r'000/00000002 of .*x\.lmdb is damaged: '):
        verify_lmdb(path, num_worker=2)
    value[4] = 7
    change(path, b'000/00000002', bytes(value))
    with pytest.raises(InputError, match=r'000/00000002 of .*x\.lmdb is of version 7 of this format, .* version 1;'):
        verify_lmdb(path, num_worker=0)
    checked = run_script('verify', path, '--num-worker', 0)
    assert checked.returncode == 1
    assert re.fullmatch(r'error: 000/00000002 of .* is of version 7 .*\.', checked.stderr.splitlines()[-1])


def test_training_names_the_damaged_frame(clip_lmdbs, train_options, tmp_path):
    """Of any layout: the frame that a sample needs; and one of another version."""
    if train_options['io_backend']['type'] == 'disk':
        pytest.skip('an LMDB is damaged here')
    roots = {}
    for key in ('dataroot_lq', 'dataroot_gt'):
        roots[key] = str(tmp_path / os.path.basename(train_options[key]))
        shutil.copytree(train_options[key], roots[key])
    value = contents(roots['dataroot_gt'])[b'000/00000003']
    change(roots['dataroot_gt'], b'000/00000003', value[:30])
    if value.startswith(b'VSRF'):
        change(roots['dataroot_gt'], b'000/00000004', value[:4] + b'\x09' + value[5:])
    dataset = VSRTrainDataset({**train_options, **roots, 'num_frame': 1})
    with pytest.raises(InputError, match=r'000/00000003 of .*GT.*\.lmdb is damaged: '):
        dataset[3]
    if value.startswith(b'VSRF'):
        with pytest.raises(InputError, match=r'000/00000004 of .*GT.*\.lmdb is of version 9'):
            dataset[4]
    assert dataset[2]['gt'].shape == (1, 3, 32, 32)


@pytest.mark.parametrize('layout', ['png', *OTHERS])
def test_a_replaced_source_frame_is_noticed(clips, tmp_path, capsys, layout):
    """Not the first of its clip, of the same name, shape and size in bytes: only its time of change says so."""
    path = tmp_path / 'x.lmdb'
    pack_lmdb(clips, path, num_worker=0, layout=layout)
    frame = clips / '001' / '00000002.bmp'
    original, stat = frame.read_bytes(), frame.stat()
    cv2.imwrite(str(frame), 255 - cv2.imread(str(frame)))
    assert frame.stat().st_size == len(original)
    with pytest.raises(InputError, match=r'has another image at key 001/00000002 than .*001/00000002\.bmp; pack it'):
        pack_lmdb(clips, path, num_worker=0, layout=layout)
    assert run_script('folder', clips, path, '--layout', layout, '--num-worker', 0).returncode == 1

    frame.write_bytes(original)  # the very image, only later
    os.utime(frame, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    assert pack_lmdb(clips, path, num_worker=0, layout=layout) == 0
    record = json.loads((path / '.job.json').read_text())
    assert record['frames']['001/00000002.bmp'] == [len(original), stat.st_mtime_ns + 10**9]  # not compared again


def test_an_lmdb_without_record_is_compared_whole(clips, tmp_path):
    """As the toolbox makes them."""
    path = tmp_path / 'x.lmdb'
    pack_lmdb(clips, path, num_worker=0)
    (path / '.job.json').unlink()
    assert pack_lmdb(clips, path, num_worker=0) == 0
    (path / '.job.json').write_text('[]')
    image = cv2.imread(str(clips / '000' / '00000004.png'))
    image[3, 4, 1] ^= 1
    cv2.imwrite(str(clips / '000' / '00000004.png'), image)
    with pytest.raises(InputError, match='has another image at key 000/00000004 than'):
        pack_lmdb(clips, path, num_worker=0)


def test_reds_in_tiles(tmp_path):
    for i in range(2):
        write_clip(tmp_path / 'train_sharp' / f'{i:03d}', 2, (16, 16, 3), seed=i)
        write_clip(tmp_path / 'train_sharp_bicubic' / 'X4' / f'{i:03d}', 2, (4, 4, 3), seed=i)
    pack_reds(tmp_path, num_clip=2, num_worker=0, layout='tiles', verify=True)
    assert (tmp_path / 'meta_info_REDS_GT.txt').read_text() == '000 2 (16,16,3)\n001 2 (16,16,3)\n'
    assert all(value[:4] == b'VSRF' for value in contents(tmp_path / 'train_sharp_with_val.lmdb').values())


@pytest.mark.parametrize('page', ['branch', 'leaf'])
def test_a_damaged_page_is_one_sentence(tmp_path, page):
    """Of the tree, not of a value: LMDB itself finds it."""
    write_clip(tmp_path / 'clips' / '000', 150, (8, 8, 3))
    path = tmp_path / 'x.lmdb'
    pack_lmdb(tmp_path / 'clips', path, num_worker=0)
    with lmdb.open(str(path), readonly=True, lock=False) as env:
        size = env.stat()['psize']
    data = bytearray((path / 'data.mdb').read_bytes())
    flag = {'branch': 1, 'leaf': 2}[page]
    pages = [start for start in range(2 * size, len(data), size) if data[start + 10] == flag]
    assert pages
    for start in pages:
        data[start + 10] = 0x40  # no kind of page
    (path / 'data.mdb').write_bytes(data)
    with pytest.raises(InputError, match=r'x\.lmdb cannot be read at .*; pack it under another name'):
        verify_lmdb(path, num_worker=0)
    checked = run_script('verify', path, '--num-worker', 0)
    assert checked.returncode == 1
    assert 'Traceback' not in checked.stderr


def test_the_toolbox_can_open_what_was_verified(clips, tmp_path):
    """LMDB opens a file once in a process."""
    from basicsr.utils import FileClient

    pack_lmdb(clips, tmp_path / 'x.lmdb', num_worker=0)
    verify_lmdb(tmp_path / 'x.lmdb', clips, num_worker=0)
    pack_lmdb(clips, tmp_path / 'x.lmdb', num_worker=0)
    pack_lmdb(tmp_path / 'x.lmdb', tmp_path / 'raw.lmdb', num_worker=0, layout='raw')
    client = FileClient('lmdb', db_paths=[str(tmp_path / 'x.lmdb')], client_keys=['gt'])
    assert client.get('000/00000001', 'gt')[:4] == b'\x89PNG'
