"""Clip lists: meta info files, LMDB lists, scanned folders."""

import pytest

from basicsr_plugins.data.meta_info import (
    ClipInfo,
    clips_from_folder,
    clips_from_lmdb,
    read_lmdb_meta_info,
    read_meta_info,
    write_meta_info,
)
from basicsr_plugins.errors import InputError


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def test_read_meta_info_sorts_clips_and_numbers_frames(tmp_path):
    path = tmp_path / 'meta.txt'
    path.write_text('011 2 (720,1280,3)\n\n000 3 (720,1280,3)\r\n')
    assert read_meta_info(path) == [
        ClipInfo('000', ('00000000', '00000001', '00000002')),
        ClipInfo('011', ('00000000', '00000001')),
    ]


def test_write_meta_info_is_read_back_by_ourselves_and_by_the_toolbox(tmp_path):
    from basicsr.data.reds_dataset import REDSRecurrentDataset

    path = tmp_path / 'meta.txt'
    write_meta_info(path, [(ClipInfo('000', ('00000000.png', '00000001.png')), (720, 1280, 3))])
    assert path.read_text() == '000 2 (720,1280,3)\n'
    assert read_meta_info(path) == [ClipInfo('000', ('00000000', '00000001'))]
    options = {'dataroot_gt': '', 'dataroot_lq': '', 'num_frame': 2, 'io_backend': {'type': 'disk'}}
    dataset = REDSRecurrentDataset(
        {**options, 'meta_info_file': str(path), 'val_partition': 'REDS4', 'test_mode': True}
    )
    assert dataset.keys == ['000/00000000', '000/00000001']
    assert [p.name for p in tmp_path.iterdir()] == ['meta.txt']


def test_write_meta_info_does_not_overwrite_another_list(tmp_path):
    path = tmp_path / 'meta.txt'
    clips = [(ClipInfo('a', ('00000000',)), (2, 2, 3))]
    write_meta_info(path, clips)
    write_meta_info(path, clips)
    with pytest.raises(InputError, match=r'meta\.txt exists and lists other clips'):
        write_meta_info(path, [*clips, (ClipInfo('b', ('00000000',)), (2, 2, 3))])
    assert path.read_text() == 'a 1 (2,2,3)\n'


@pytest.mark.parametrize(
    ('clip', 'message'),
    [
        (ClipInfo('my clip', ('00000000.png',)), "cannot list clip 'my clip', whose name has blanks"),
        (ClipInfo('a', ('im1.png', 'im2.png')), 'im1.png stands in place of 00000000'),
        (ClipInfo('a', ('00000001.png',)), '00000001.png stands in place of 00000000'),
    ],
)
def test_write_meta_info_refuses_what_the_format_cannot_hold(tmp_path, clip, message):
    with pytest.raises(InputError, match=message):
        write_meta_info(tmp_path / 'meta.txt', [(clip, (2, 2, 3))])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    'line', ['000', '000 x (2,2,3)', '000 0 (2,2,3)', '000 3 2,2,3', 'a b 3 (2,2,3)', '000 3 (2,2)']
)
def test_malformed_line_is_named(tmp_path, line):
    path = tmp_path / 'meta.txt'
    path.write_text(f'001 3 (2,2,3)\n{line}\n')
    with pytest.raises(InputError, match=r'meta\.txt:2: ') as error:
        read_meta_info(path)
    assert f"'{line}'" in str(error.value)


def test_unusable_meta_info_files(tmp_path):
    path = tmp_path / 'meta.txt'
    with pytest.raises(InputError, match=r'meta\.txt cannot be read: No such file'):
        read_meta_info(path)
    path.write_text('\n')
    with pytest.raises(InputError, match=r'meta\.txt is empty'):
        read_meta_info(path)
    path.write_bytes(b'\xff\xfe000')
    with pytest.raises(InputError, match=r'meta\.txt cannot be read'):
        read_meta_info(path)
    path.write_text('a 1 (2,2,3)\nb 1 (2,2,3)\na 1 (2,2,3)\n')
    with pytest.raises(InputError, match=r'meta\.txt:3: clip a is listed twice'):
        read_meta_info(path)


def test_clips_from_lmdb_groups_by_clip(tmp_path):
    (tmp_path / 'meta_info.txt').write_text(
        '00002/0001/im1.png (4,6,3) 1\n00001/0002/im2.png (4,6,3) 1\n00001/0002/im1.png (4,6,3) 1\n'
    )
    assert clips_from_lmdb(tmp_path) == [ClipInfo('00001/0002', ('im1', 'im2')), ClipInfo('00002/0001', ('im1',))]
    assert read_lmdb_meta_info(tmp_path)[0] == ('00002/0001/im1', (4, 6, 3), 1)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('a/0.png (4,6,3) 1\na/1.png (4,6) 1\n', r"meta_info\.txt:2: 'a/1\.png \(4,6\) 1' should be"),
        ('a/0.png (4,6,3) 1\na/0.png (4,6,3) 1\n', r'meta_info\.txt:2: key a/0 is listed twice'),
        ('a_0.png (4,6,3) 1\n', r"key 'a_0' is not 'clip/frame'"),
        ('a/0.png (4,6,3) 1\na/2.png (4,6,3) 1\n', 'clip a .*: 0 is followed by 2'),
    ],
)
def test_damaged_lmdb_list(tmp_path, text, message):
    (tmp_path / 'meta_info.txt').write_text(text)
    with pytest.raises(InputError, match=message):
        clips_from_lmdb(tmp_path)


def test_clips_from_folder_scans_nested_clips_and_skips_what_is_no_frame(tmp_path):
    touch(tmp_path, 'b/0.PNG', 'b/1.jpg', 'a/x/im1.png', 'a/x/im2.png', 'a/x/notes.txt', 'a/x/.im3.png', '.cache/0.png')
    touch(tmp_path, 'readme.txt')
    assert clips_from_folder(tmp_path) == [ClipInfo('a/x', ('im1.png', 'im2.png')), ClipInfo('b', ('0.PNG', '1.jpg'))]


@pytest.mark.parametrize(
    ('paths', 'message'),
    [
        (['a/00000000.png', 'a/00000002.png'], '00000000.png is followed by 00000002.png'),
        (['a/8.png', 'a/9.png', 'a/10.png'], '10.png is followed by 8.png'),
        (['a/0.png', 'a/1.png', 'a/thumb.png'], '1.png is followed by thumb.png'),
        (['a/0.png', 'a/0.jpg'], '0.jpg is followed by 0.png'),
        (['a/0.png', 'b/notes.txt'], 'clip .*b is empty'),
        (['0.png', '1.png'], r'holds images itself \(0.png\)'),
        (['notes.txt'], 'holds no clips'),
    ],
)
def test_unusable_folders(tmp_path, paths, message):
    with pytest.raises(InputError, match=message):
        clips_from_folder(touch(tmp_path, *paths))


def test_missing_folder(tmp_path):
    with pytest.raises(InputError, match='absent is not a folder of clips'):
        clips_from_folder(tmp_path / 'absent')
