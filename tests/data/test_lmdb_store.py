"""LMDBs: as the toolbox would write them, whatever interrupts the work."""

import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest

from basicsr_plugins.data import lmdb_store
from basicsr_plugins.data.bicubic_lr import bicubic_downsample, make_bicubic_lr
from basicsr_plugins.data.lmdb_store import pack_folder, pack_lmdb, pack_reds
from basicsr_plugins.data.lmdb_verification import verify_lmdb
from basicsr_plugins.errors import InputError

SCRIPT = Path(__file__).resolve().parents[2] / 'scripts' / 'data_preparation' / 'create_lmdb.py'


def write_clip(folder, num_frame, size=(12, 16, 3), suffix='.png', seed=0):
    """Noise, so that no frame equals another one and PNG cannot shrink it."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for i in range(num_frame):
        cv2.imwrite(str(folder / f'{i:08d}{suffix}'), rng.integers(0, 256, size, np.uint8))


@pytest.fixture
def clips(tmp_path):
    source = tmp_path / 'clips'
    write_clip(source / '000', 5)
    write_clip(source / '001', 3, (8, 10, 3), '.bmp', seed=1)
    write_clip(source / 'nested' / 'a', 2, (8, 10), seed=2)
    return source


def contents(path):
    with lmdb.open(str(path), readonly=True, lock=False) as env, env.begin() as txn:
        return dict(txn.cursor())


def change(path, key, value):
    with lmdb.open(str(path), map_size=2**24) as env, env.begin(write=True) as txn:
        if value is None:
            txn.delete(key)
        else:
            txn.put(key, value)


def png(image):
    return cv2.imencode('.png', image)[1].tobytes()


def run_script(*args, **options):
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, args)], capture_output=True, text=True, **options)


def frame_names(source):
    return sorted(path.relative_to(source).as_posix() for path in source.rglob('*.*'))


@pytest.mark.parametrize('compress_level', [1, 4])
def test_same_as_the_toolbox_makes(clips, tmp_path, compress_level):
    from basicsr.utils.lmdb_util import make_lmdb_from_imgs

    names = frame_names(clips)
    theirs = tmp_path / 'theirs.lmdb'
    keys = [os.path.splitext(name)[0] for name in names]
    make_lmdb_from_imgs(str(clips), str(theirs), names, keys, compress_level=compress_level, map_size=2**24)

    ours = tmp_path / 'ours.lmdb'
    assert pack_lmdb(clips, ours, compress_level, num_worker=2) == 10
    assert sorted(path.name for path in ours.glob('[!.]*')) == sorted(path.name for path in theirs.iterdir())
    assert (ours / 'meta_info.txt').read_text() == (theirs / 'meta_info.txt').read_text()
    assert contents(ours) == contents(theirs)


def test_the_toolbox_reads_it(clips, tmp_path):
    from basicsr.utils import FileClient, imfrombytes

    pack_lmdb(clips, tmp_path / 'x.lmdb', num_worker=0)
    client = FileClient('lmdb', db_paths=[str(tmp_path / 'x.lmdb')], client_keys=['gt'])
    for name in frame_names(clips):
        frame = imfrombytes(client.get(os.path.splitext(name)[0], 'gt'))
        assert np.array_equal(frame, cv2.imread(str(clips / name)))


def test_map_grows_within_and_between_transactions(clips, tmp_path, monkeypatch):
    pack_lmdb(clips, tmp_path / 'roomy.lmdb', num_worker=0)
    monkeypatch.setattr(lmdb_store, 'COMMIT_BYTES', 1500)
    for map_size in (2**13, 2**14):
        path = tmp_path / f'{map_size}.lmdb'
        pack_lmdb(clips, path, num_worker=0, map_size=map_size)
        assert contents(path) == contents(tmp_path / 'roomy.lmdb')
        with lmdb.open(str(path), readonly=True) as env:
            assert env.info()['map_size'] > map_size


def test_16_bit_and_alpha_are_kept(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / 'clips' / 'a').mkdir(parents=True)
    image = rng.integers(0, 2**16, (6, 7, 4), np.uint16)
    cv2.imwrite(str(tmp_path / 'clips' / 'a' / '0.png'), image)
    pack_lmdb(tmp_path / 'clips', tmp_path / 'x.lmdb', num_worker=0)
    assert (tmp_path / 'x.lmdb' / 'meta_info.txt').read_text() == 'a/0.png (6,7,4) 1\n'
    value = contents(tmp_path / 'x.lmdb')[b'a/0']
    assert np.array_equal(cv2.imdecode(np.frombuffer(value, np.uint8), cv2.IMREAD_UNCHANGED), image)
    assert verify_lmdb(tmp_path / 'x.lmdb', tmp_path / 'clips', num_worker=0) == 1


def test_killed_run_resumes_from_what_it_committed(tmp_path):
    source = tmp_path / 'clips'
    for i in range(2):
        write_clip(source / f'{i:03d}', 30, (320, 360, 3), '.bmp', seed=i)  # 21 MB: several commits
    undisturbed = tmp_path / 'undisturbed.lmdb'
    assert run_script('folder', source, undisturbed, '--num-worker', 2).returncode == 0

    target, partial = tmp_path / 'x.lmdb', tmp_path / 'x.lmdb.partial'
    command = [sys.executable, str(SCRIPT), 'folder', str(source), str(target), '--num-worker', '2']
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        shown = b''
        while not re.search(rb' [3-5]\d/60 ', shown):  # 30 frames are 10 MB
            chunk = os.read(process.stderr.fileno(), 4096)
            assert chunk, shown
            shown += chunk
        process.send_signal(signal.SIGKILL)
        process.stderr.read()  # ends when the last worker has closed it: none outlives the parent
    assert process.returncode == -signal.SIGKILL
    assert not target.exists()
    committed = len(contents(partial))
    assert 20 <= committed < 60

    rerun = run_script('folder', source, target, '--num-worker', 2)
    assert rerun.returncode == 0, rerun.stderr
    assert f'{committed} of 60 frames are there already' in rerun.stdout
    assert f'{60 - committed} written now' in rerun.stdout
    assert contents(target) == contents(undisturbed)
    assert (target / 'meta_info.txt').read_bytes() == (undisturbed / 'meta_info.txt').read_bytes()
    assert not partial.exists()
    assert sorted(path.name for path in target.iterdir()) == ['.job.json', 'data.mdb', 'lock.mdb', 'meta_info.txt']


def test_interrupt_keeps_what_is_encoded(clips, tmp_path, monkeypatch):
    target = tmp_path / 'x.lmdb'
    encode = lmdb_store._encode

    def interrupted(frame, *settings):
        if frame.path.name == '00000001.bmp':
            raise KeyboardInterrupt
        return encode(frame, *settings)

    monkeypatch.setattr(lmdb_store, '_encode', interrupted)
    with pytest.raises(KeyboardInterrupt):
        pack_lmdb(clips, target, num_worker=0)
    assert len(contents(tmp_path / 'x.lmdb.partial')) == 6

    redone = []
    monkeypatch.setattr(
        lmdb_store, '_encode', lambda frame, *rest: redone.append(frame.path.name) or encode(frame, *rest)
    )
    assert pack_lmdb(clips, target, num_worker=0) == 4
    assert redone == ['00000001.bmp', '00000002.bmp', '00000000.png', '00000001.png']
    assert verify_lmdb(target, clips, num_worker=0) == 10


def break_frame(clips):
    """Stops a run after five frames; returns a function that restores the frame, its time of change included."""
    path = clips / '001' / '00000000.bmp'
    data, stat = path.read_bytes(), path.stat()
    path.write_bytes(bytes(len(data)))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    def restore():
        path.write_bytes(data)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    return restore


def test_resumed_run_notices_what_changed(clips, tmp_path):
    target = tmp_path / 'x.lmdb'
    restore = break_frame(clips)
    with pytest.raises(InputError, match=r'001/00000000\.bmp cannot be decoded'):
        pack_lmdb(clips, target, num_worker=0)

    with pytest.raises(InputError, match=r'x\.lmdb\.partial was begun with other input \(compress_level was 1, is 3\)'):
        pack_lmdb(clips, target, compress_level=3, num_worker=0)
    os.rename(clips, tmp_path / 'moved')
    with pytest.raises(InputError, match=r'\(source was .*clips, is .*moved\)'):
        pack_lmdb(tmp_path / 'moved', target, num_worker=0)
    os.rename(tmp_path / 'moved', clips)
    extra = clips / '000' / '00000005.png'
    extra.write_bytes((clips / '000' / '00000000.png').read_bytes())
    with pytest.raises(InputError, match=r'\(frame 000/00000005\.png was added since\)'):
        pack_lmdb(clips, target, num_worker=0)
    extra.unlink()
    frame = clips / '000' / '00000000.png'
    stat = frame.stat()
    os.utime(frame, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    with pytest.raises(InputError, match=r'\(frame 000/00000000\.png has changed since\)'):
        pack_lmdb(clips, target, num_worker=0)

    os.utime(frame, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    restore()
    assert pack_lmdb(clips, target, num_worker=0) == 5
    assert verify_lmdb(target, clips, num_worker=0) == 10


def test_two_runs_at_once_are_refused(clips, tmp_path):
    fcntl = pytest.importorskip('fcntl')
    break_frame(clips)
    with pytest.raises(InputError):
        pack_lmdb(clips, tmp_path / 'x.lmdb', num_worker=0)
    with open(tmp_path / 'x.lmdb.partial' / '.lock') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match=r'another process is writing .*x\.lmdb\.partial'):
            pack_lmdb(clips, tmp_path / 'x.lmdb', num_worker=0)


def test_existing_lmdb_is_recognized_or_refused_and_never_overwritten(clips, tmp_path, capsys):
    target = tmp_path / 'x.lmdb'
    pack_lmdb(clips, target, num_worker=0)
    before = (target / 'data.mdb').read_bytes()
    capsys.readouterr()
    assert pack_lmdb(clips, target, num_worker=0) == 0
    assert 'x.lmdb is there already, with the 10 frames' in capsys.readouterr().out

    with pytest.raises(InputError, match='is there already, with compression level 1, not 5'):
        pack_lmdb(clips, target, compress_level=5, num_worker=0)
    other = tmp_path / 'other'
    write_clip(other / '000', 5)
    with pytest.raises(InputError, match=r'has 5 keys that are not in .*other, such as 001/00000000'):
        pack_lmdb(other, target, num_worker=0)
    write_clip(other / '001', 3, (8, 10, 3), '.bmp', seed=9)
    write_clip(other / 'nested' / 'a', 3, (8, 10), seed=2)
    with pytest.raises(InputError, match='lacks key nested/a/00000002'):
        pack_lmdb(other, target, num_worker=0)
    (other / 'nested' / 'a' / '00000002.png').unlink()
    with pytest.raises(InputError, match='has another image at key 001/00000000'):
        pack_lmdb(other, target, num_worker=0)
    assert (target / 'data.mdb').read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ['clips', 'other', 'x.lmdb']

    assert pack_lmdb(other, target, num_worker=0, force=True) == 10
    assert verify_lmdb(target, other, num_worker=0) == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ['clips', 'other', 'x.lmdb']


def test_a_folder_that_is_no_lmdb_is_not_replaced(clips, tmp_path):
    target = tmp_path / 'x.lmdb'
    target.mkdir()
    (target / 'thesis.txt').touch()
    with pytest.raises(InputError, match=r'meta_info\.txt cannot be read'):
        pack_lmdb(clips, target, num_worker=0)
    with pytest.raises(InputError, match=r'x\.lmdb is no LMDB, so it is not replaced'):
        pack_lmdb(clips, target, num_worker=0, force=True)
    target.rename(tmp_path / 'x.lmdb.partial')
    with pytest.raises(InputError, match=r'x\.lmdb\.partial holds files of something else'):
        pack_lmdb(clips, target, num_worker=0)
    assert (tmp_path / 'x.lmdb.partial' / 'thesis.txt').exists()


def test_unusable_frames_are_named(clips, tmp_path):
    frame = clips / '000' / '00000003.png'
    original = frame.read_bytes()

    def pack(data, name='x'):
        frame.write_bytes(data)
        pack_lmdb(clips, tmp_path / f'{name}.lmdb', num_worker=0)

    with pytest.raises(InputError, match=r'000/00000003\.png cannot be decoded'):
        pack(original[:-40], 'short')
    with pytest.raises(InputError, match=r'000/00000003\.png cannot be decoded'):
        pack(b'', 'empty')
    with pytest.raises(InputError, match=r'00000003\.png has the shape \(12, 15, 3\), .* \(12, 16, 3\)'):
        pack(png(np.zeros((12, 15, 3), np.uint8)), 'size')
    with pytest.raises(InputError, match=r'00000003\.png cannot be decoded'):
        pack(cv2.imencode('.jpg', np.zeros((12, 16, 3), np.uint8))[1].tobytes()[:-30], 'jpeg')
    with pytest.raises(InputError, match=r'00000003\.png holds float32 values'):
        pack(cv2.imencode('.tiff', np.zeros((12, 16, 3), np.float32))[1].tobytes(), 'float')
    assert not list(tmp_path.glob('*.lmdb'))


@pytest.mark.parametrize(
    ('clip', 'message'),
    [
        ('my clip', "'my clip/00000000' cannot be an LMDB key"),
        ('clip.v2', r"'clip\.v2/00000000' cannot be an LMDB key"),
        ('città', "'città/00000000' cannot be an LMDB key"),
        ('/'.join(['a' * 200] * 3), 'is 611 bytes long, an LMDB key 511 at most'),
    ],
)
def test_names_that_cannot_be_keys(tmp_path, clip, message):
    write_clip(tmp_path / 'clips' / clip, 1)
    with pytest.raises(InputError, match=message):
        pack_lmdb(tmp_path / 'clips', tmp_path / 'x.lmdb', num_worker=0)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'compress_level': 10}, 'the compression level is 10; give 0 to 9'),
        ({'num_worker': -1}, 'the number of workers is -1'),
        ({'lmdb_path': 'x'}, r"x must end with '\.lmdb'"),
        ({'lmdb_path': 'clips/x.lmdb'}, 'would lie in its own source'),
    ],
)
def test_unusable_options(clips, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        pack_lmdb(**{'source': 'clips', 'lmdb_path': 'x.lmdb', 'num_worker': 0, **options})


def test_full_disk_is_one_sentence_and_loses_nothing(tmp_path):
    write_clip(tmp_path / 'clips' / 'a', 40, (300, 400, 3), '.bmp')  # 14 MB

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**23 + 2**21, 2**23 + 2**21))

    command = ('folder', tmp_path / 'clips', tmp_path / 'x.lmdb', '--num-worker', 1)
    full = run_script(*command, preexec_fn=limit)
    assert full.returncode == 1
    assert re.fullmatch(
        r'error: .*x\.lmdb\.partial cannot be written \(.+\); make room.*', full.stderr.splitlines()[-1]
    )
    assert 'Traceback' not in full.stderr
    committed = len(contents(tmp_path / 'x.lmdb.partial'))
    assert committed > 0
    again = run_script(*command, '--verify')
    assert again.returncode == 0, again.stderr
    assert f'{40 - committed} written now' in again.stdout


def test_pack_folder_lists_the_clips(tmp_path):
    write_clip(tmp_path / 'clips' / '000', 3)
    write_clip(tmp_path / 'clips' / '001', 2, (8, 10, 3))
    pack_folder(tmp_path / 'clips', tmp_path / 'x.lmdb', tmp_path / 'meta.txt', verify=True, num_worker=0)
    assert (tmp_path / 'meta.txt').read_text() == '000 3 (12,16,3)\n001 2 (8,10,3)\n'


def test_pack_reds_uses_the_names_of_the_toolbox(tmp_path):
    for i in range(3):
        write_clip(tmp_path / 'train_sharp' / f'{i:03d}', 2, (16, 16, 3), seed=i)
        write_clip(tmp_path / 'train_sharp_bicubic' / 'X4' / f'{i:03d}', 2, (4, 4, 3), seed=i)
    with pytest.raises(InputError, match=r'train_sharp should hold the 4 clips 000 to 003, but 003 is missing'):
        pack_reds(tmp_path, num_clip=4, num_worker=0)
    (tmp_path / 'train_sharp_bicubic' / 'X4' / '001' / '00000001.png').rename(tmp_path / 'lost.png')
    with pytest.raises(InputError, match=r'clip 001 has 2 frames in .*train_sharp and 1 in'):
        pack_reds(tmp_path, num_clip=3, num_worker=0)
    (tmp_path / 'lost.png').rename(tmp_path / 'train_sharp_bicubic' / 'X4' / '001' / '00000001.png')

    pack_reds(tmp_path, num_clip=3, num_worker=0, verify=True)
    assert (tmp_path / 'meta_info_REDS_GT.txt').read_text() == '000 2 (16,16,3)\n001 2 (16,16,3)\n002 2 (16,16,3)\n'
    lq = contents(tmp_path / 'train_sharp_bicubic_with_val.lmdb')
    assert list(lq) == list(contents(tmp_path / 'train_sharp_with_val.lmdb'))
    lq_frame = tmp_path / 'train_sharp_bicubic' / 'X4' / '002' / '00000001.png'
    assert (
        lq[b'002/00000001']
        == cv2.imencode('.png', cv2.imread(str(lq_frame)), [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
    )


@pytest.mark.parametrize('scale', [2, 3])
def test_reds_of_other_scales(scale, tmp_path):
    """LR by the script, packed under a name of its own."""
    write_clip(tmp_path / 'train_sharp' / '000', 2, (12, 18, 3))
    make_bicubic_lr(tmp_path / 'train_sharp', tmp_path / 'train_sharp_bicubic' / f'X{scale}', scale, num_worker=0)
    pack_reds(tmp_path, num_clip=1, scale=scale, num_worker=0, verify=True)
    packed = contents(tmp_path / f'train_sharp_bicubic_X{scale}_with_val.lmdb')
    lq = cv2.imdecode(np.frombuffer(packed[b'000/00000001'], np.uint8), cv2.IMREAD_COLOR)
    gt = cv2.imread(str(tmp_path / 'train_sharp' / '000' / '00000001.png'))
    assert np.array_equal(lq, bicubic_downsample(gt, scale))


def test_script_reports_errors_in_one_line(clips, tmp_path):
    missing = run_script('folder', tmp_path / 'absent', tmp_path / 'x.lmdb')
    assert missing.returncode == 1
    assert missing.stderr == f'error: {tmp_path}/absent is not a folder of clips; check the path.\n'
    assert 'examples:' in run_script('--help').stdout
    assert run_script('verify', tmp_path / 'x.lmdb').returncode == 1
    packed = run_script('folder', clips, tmp_path / 'x.lmdb', '--num-worker', 0)
    assert packed.returncode == 0, packed.stderr
    assert run_script('verify', tmp_path / 'x.lmdb', '--source', clips, '--num-worker', 0).returncode == 0
