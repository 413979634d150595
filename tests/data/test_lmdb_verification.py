"""Verification names the first key that is bad, and survives files that are cut short."""

import os

import cv2
import numpy as np
import pytest

from basicsr_plugins.data.lmdb_store import pack_lmdb
from basicsr_plugins.data.lmdb_verification import verify_lmdb
from basicsr_plugins.errors import InputError

from .test_lmdb_store import change, png, write_clip


@pytest.fixture
def clips(tmp_path):
    source = tmp_path / 'clips'
    write_clip(source / '000', 5)
    write_clip(source / '001', 3, (8, 10, 3), '.bmp', seed=1)
    write_clip(source / 'nested' / 'a', 2, (8, 10), seed=2)
    return source


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        (b'000/00000002', None, 'lacks key 000/00000002, which is in its meta_info.txt'),
        (b'zzz/00000000', b'', 'has 1 keys that are not in its meta_info.txt, such as zzz/00000000'),
        (b'000/00000002', b'\x89PNG nothing', 'has a value at key 000/00000002 that cannot be decoded'),
        (b'000/00000002', png(np.zeros((3, 4), np.uint8)), r'has an image of shape \(3, 4, 1\) at key 000/00000002'),
    ],
    ids=['missing', 'stray', 'undecodable', 'shape'],
)
def test_verify_names_the_first_bad_key(clips, tmp_path, key, value, message):
    path = tmp_path / 'x.lmdb'
    pack_lmdb(clips, path, num_worker=0)
    change(path, b'nested/a/00000001', b'damaged, but later')
    change(path, key, value)
    with pytest.raises(InputError, match=message):
        verify_lmdb(path, num_worker=2)


def test_verify_compares_with_the_source(clips, tmp_path):
    path = tmp_path / 'x.lmdb'
    pack_lmdb(clips, path, num_worker=0)
    image = cv2.imread(str(clips / '001' / '00000002.bmp'))
    image[7, 9, 2] ^= 1
    change(path, b'001/00000002', png(image))
    assert verify_lmdb(path, num_worker=0) == 10
    with pytest.raises(InputError, match=r'has another image at key 001/00000002 than .*001/00000002\.bmp'):
        verify_lmdb(path, clips, num_worker=0)
    (clips / '001' / '00000002.bmp').unlink()
    with pytest.raises(InputError, match=r'has 1 keys that are not in .*clips, such as 001/00000002'):
        verify_lmdb(path, clips, num_worker=0)


def test_verify_survives_a_database_that_is_cut_short(clips, tmp_path):
    path = tmp_path / 'x.lmdb'
    pack_lmdb(clips, path, num_worker=0)
    os.truncate(path / 'data.mdb', 3 * 4096)
    with pytest.raises(InputError, match=r'has a data\.mdb that is cut short'):
        verify_lmdb(path, num_worker=0)
    (path / 'data.mdb').write_bytes(b'nothing' * 4096)
    with pytest.raises(InputError, match=r'x\.lmdb cannot be opened'):
        verify_lmdb(path, num_worker=0)
