import os
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest

from basicsr_plugins.benchmark.clips import find_roots, fingerprint, open_clips
from basicsr_plugins.data.lmdb_store import pack_lmdb
from basicsr_plugins.errors import InputError

from .conftest import LENGTHS, gt_frame, lq_frame


def bgr(tensor):
    return (tensor * 255).round().permute(1, 2, 0).flip(2).byte().numpy()


def assert_is_the_test_set(clips):
    assert [(clip.name, len(clip.frames)) for clip in clips] == list(LENGTHS.items())
    for clip in clips:
        assert clip.frames == tuple(f'{i:08d}' for i in range(LENGTHS[clip.name]))
        assert len(clip.lq) == len(clip.gt) == LENGTHS[clip.name]
        for i in range(LENGTHS[clip.name]):
            np.testing.assert_array_equal(bgr(clip.lq[i]), lq_frame(clip.name, i))
            np.testing.assert_array_equal(bgr(clip.gt[i]), gt_frame(clip.name, i))


@pytest.mark.parametrize(
    ('gt', 'lq'),
    [('GT', 'BIx4'), ('GT', 'sharp_bicubic'), ('sharp', 'LR_bicubic/X4'), ('HR', 'LR'), ('GT', 'BDx4'), ('GT', 'blur')],
)
def test_folders_of_vid4_reds4_and_udm10(test_set, tmp_path, gt, lq):
    (tmp_path / lq).parent.mkdir(exist_ok=True)
    (tmp_path / gt).symlink_to(test_set / 'GT')
    (tmp_path / lq).symlink_to(test_set / 'BIx4')
    lq_root, gt_root = find_roots(tmp_path, 4)
    assert (lq_root, gt_root) == (tmp_path / lq, tmp_path / gt)
    assert_is_the_test_set(open_clips(lq_root, gt_root, 4))


def test_bicubic_lq_comes_before_blurred_lq(test_set, tmp_path):
    for name, source in (('GT', 'GT'), ('BDx4', 'BIx4'), ('BIx4', 'BIx4')):
        (tmp_path / name).symlink_to(test_set / source)
    assert find_roots(tmp_path, 4) == (tmp_path / 'BIx4', tmp_path / 'GT')


@pytest.mark.parametrize('lq', ['input4', 'bicubic4', 'blur4'])
def test_spmc_and_udm10_with_both_sides_in_the_clip(test_set, tmp_path, lq):
    for clip in LENGTHS:
        (tmp_path / clip).mkdir()
        (tmp_path / clip / 'truth').symlink_to(test_set / 'GT' / clip)
        (tmp_path / clip / lq).symlink_to(test_set / 'BIx4' / clip)
    assert find_roots(tmp_path, 4) == (tmp_path, tmp_path)
    assert_is_the_test_set(open_clips(tmp_path, tmp_path, 4))


def test_of_spmc_the_lq_of_the_scale_counts(test_set, tmp_path):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / 'truth').symlink_to(test_set / 'GT' / 'a')
    (tmp_path / 'a' / 'input2').symlink_to(test_set / 'BIx4' / 'a')
    with pytest.raises(InputError, match='clip a has no folder input4'):
        open_clips(tmp_path, tmp_path, 4)


def test_lmdbs_and_a_folder_beside_an_lmdb(test_set, tmp_path):
    for kind in ('GT', 'BIx4'):
        pack_lmdb(test_set / kind, tmp_path / f'{kind}.lmdb', num_worker=0)
    lq_root, gt_root = find_roots(tmp_path, 4)
    assert (lq_root, gt_root) == (tmp_path / 'BIx4.lmdb', tmp_path / 'GT.lmdb')
    assert_is_the_test_set(open_clips(lq_root, gt_root, 4))
    assert_is_the_test_set(open_clips(test_set / 'BIx4', gt_root, 4))


def test_frames_are_read_only_when_asked_for(test_set, tmp_path):
    shutil.copytree(test_set, tmp_path / 'set')
    (tmp_path / 'set' / 'GT' / 'b' / '00000006.png').write_bytes(b'damaged')
    clip = open_clips(tmp_path / 'set' / 'BIx4', tmp_path / 'set' / 'GT', 4)[1]
    np.testing.assert_array_equal(bgr(clip.gt[5]), gt_frame('b', 5))
    with pytest.raises(InputError, match=r'00000006\.png is damaged'):
        clip.gt[6]


@pytest.mark.parametrize('kind', ['GT', 'BIx4'])
def test_the_content_of_an_lmdb_is_known_by_its_time_and_by_its_bytes(test_set, tmp_path, kind):
    for name in ('GT', 'BIx4'):
        pack_lmdb(test_set / name, tmp_path / f'{name}.lmdb', num_worker=0)
    clip, other = open_clips(tmp_path / 'BIx4.lmdb', tmp_path / 'GT.lmdb', 4)
    path = tmp_path / f'{kind}.lmdb' / 'data.mdb'
    status, data = path.stat(), bytearray(path.read_bytes())
    contents = [clip.content, other.content]
    assert replace(clip).content == clip.content
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    contents.append(replace(clip).content)
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    contents.append(replace(clip).content)
    assert len(set(contents)) == 3  # both clips are in one file


def test_a_file_that_vanished_has_no_fingerprint(tmp_path):
    with pytest.raises(InputError, match='x cannot be read: No such file'):
        fingerprint([tmp_path / 'x'])


class TestErrors:
    @pytest.fixture
    def copy(self, test_set, tmp_path):
        return shutil.copytree(test_set, tmp_path / 'set')

    def open(self, root, scale=4):
        return open_clips(*find_roots(root, scale), scale)

    def test_no_folder(self, tmp_path):
        with pytest.raises(InputError, match=r'no folder .*nowhere'):
            find_roots(tmp_path / 'nowhere', 4)

    @pytest.mark.parametrize(('folder', 'missing'), [('GT', r'GT clips \(GT, HR'), ('BIx4', r'LQ clips \(BIx4, BI')])
    def test_a_side_is_missing(self, copy, folder, missing):
        shutil.rmtree(copy / folder)
        with pytest.raises(InputError, match=f'{missing}.*name the folders of LQ and GT themselves'):
            find_roots(copy, 4)

    @pytest.mark.parametrize('folder', ['GT', 'BIx4'])
    def test_a_clip_is_missing_on_one_side(self, copy, folder):
        shutil.rmtree(copy / folder / 'b')
        with pytest.raises(InputError, match=f'clip b is in .*, but not in .*{folder}'):
            self.open(copy)

    def test_a_frame_is_missing(self, copy):
        (copy / 'BIx4' / 'a' / '00000004.png').unlink()
        with pytest.raises(InputError, match=r'clip a has 4 frames in .*BIx4, but 5 in .*GT'):
            self.open(copy)

    def test_of_spmc_a_frame_is_missing(self, copy, tmp_path):
        root = tmp_path / 'spmc'
        (root / 'a').mkdir(parents=True)
        (copy / 'GT' / 'a').rename(root / 'a' / 'truth')
        (copy / 'BIx4' / 'a').rename(root / 'a' / 'input4')
        (root / 'a' / 'truth' / '00000004.png').unlink()
        with pytest.raises(InputError, match='a/input4 has 5 frames, but a/truth has 4'):
            self.open(root)

    def test_the_size_does_not_fit_the_scale(self, copy):
        path = copy / 'GT' / 'b' / '00000000.png'
        cv2.imwrite(str(path), gt_frame('b', 0)[:, :-1])
        with pytest.raises(InputError, match=r'b/00000000.png .* is 79x48, but 4 times .* \(20x12\) would be 80x48'):
            self.open(copy)

    def test_the_same_folder_for_lq_and_gt(self, test_set):
        with pytest.raises(InputError, match='GT holds no clips with a folder truth'):
            open_clips(test_set / 'GT', test_set / 'GT', 4)

    def test_no_clips(self, copy):
        for kind in ('GT', 'BIx4'):
            shutil.rmtree(copy / kind)
            (copy / kind).mkdir()
        with pytest.raises(InputError, match='BIx4 holds no clips'):
            self.open(copy)
