import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from basicsr_plugins.data import clips
from basicsr_plugins.data.vsr_test_dataset import VSRTestDataset
from basicsr_plugins.errors import InputError
from basicsr_plugins.files import is_cut_short

from .conftest import LENGTHS, lq_frame


@pytest.mark.parametrize('cache_data', [False, True])
def test_whole_clips_of_any_length_and_name(test_options, cache_data):
    dataset = VSRTestDataset({**test_options, 'name': 'any name', 'cache_data': cache_data})
    assert len(dataset) == len(LENGTHS)
    for number, (clip, length) in enumerate(LENGTHS.items()):
        item = dataset[number]
        assert item['folder'] == clip
        assert item['frames'] == [f'{frame:08d}' for frame in range(length)]
        expected = np.stack([lq_frame(number, frame) for frame in range(length)])[..., ::-1]  # RGB
        assert torch.equal((item['lq'] * 255).round().byte(), torch.from_numpy(expected.copy()).permute(0, 3, 1, 2))
        assert torch.equal(item['gt'], item['lq'].repeat_interleave(4, 2).repeat_interleave(4, 3))
    assert dataset.data_info['folder'] == [clip for clip, length in LENGTHS.items() for _ in range(length)]


def test_cached_clips_outlive_their_files(clip_folders, test_options, tmp_path):
    shutil.copytree(clip_folders / 'LQ', tmp_path / 'LQ')
    options = {**test_options, 'dataroot_lq': str(tmp_path / 'LQ'), 'io_backend': {'type': 'disk'}}
    del options['dataroot_gt']
    cached, lazy = (VSRTestDataset({**options, 'cache_data': value}) for value in (True, False))
    expected = lazy[0]['lq']
    shutil.rmtree(tmp_path / 'LQ')
    assert torch.equal(cached[0]['lq'], expected)
    with pytest.raises(InputError, match='No such file'):
        lazy[0]


def test_without_gt(test_options):
    del test_options['dataroot_gt']
    assert set(VSRTestDataset(test_options)[0]) == {'lq', 'folder', 'frames'}


@pytest.mark.parametrize(
    ('partition', 'kept'), [(None, list(LENGTHS)), ('none', list(LENGTHS)), (['long', '001'], ['001', 'long'])]
)
def test_val_partition_keeps_its_clips(test_options, partition, kept):
    dataset = VSRTestDataset({**test_options, 'val_partition': partition})
    assert [dataset[i]['folder'] for i in range(len(dataset))] == kept


@pytest.mark.parametrize(('mode', 'notes'), [('RGB', 0), ('P', 0), ('RGBA', 1), ('LA', 1)])
def test_an_alpha_channel_is_noted(tmp_path, test_options, monkeypatch, mode, notes):
    """Once, as it is dropped."""
    (tmp_path / 'LQ' / 'scene').mkdir(parents=True)
    for frame in (1, 2):
        Image.new('RGBA', (8, 8), (100, 100, 100, 200)).convert(mode).save(tmp_path / 'LQ' / 'scene' / f'{frame}.png')
    del test_options['dataroot_gt']
    said = []
    monkeypatch.setattr(clips, 'get_root_logger', lambda: SimpleNamespace(warning=said.append))
    options = {**test_options, 'dataroot_lq': str(tmp_path / 'LQ'), 'io_backend': {'type': 'disk'}}
    assert VSRTestDataset(options)[0]['lq'].shape == (2, 3, 8, 8)
    first = tmp_path / 'LQ' / 'scene' / '1.png'
    assert said == [f'{first} has an alpha channel; it is dropped, here and in all others.'] * notes


def test_frames_of_any_name(tmp_path, test_options):
    for kind, size in (('LQ', 8), ('GT', 32)):
        (tmp_path / kind / 'scene').mkdir(parents=True)
        for frame in (8, 9, 10):
            cv2.imwrite(
                str(tmp_path / kind / 'scene' / f'im{frame:03d}.bmp'), np.full((size, size, 3), frame, np.uint8)
            )
    roots = {'dataroot_lq': str(tmp_path / 'LQ'), 'dataroot_gt': str(tmp_path / 'GT'), 'io_backend': {'type': 'disk'}}
    item = VSRTestDataset({**test_options, **roots})[0]
    assert item['frames'] == ['im008', 'im009', 'im010']
    assert (item['lq'][:, 0, 0, 0] * 255).round().tolist() == [8, 9, 10]


def test_jpeg_cut_short(tmp_path, test_options):
    """OpenCV before 5 would fill it up with grey; the end mark of a thumbnail ahead of the image is none of its own."""
    (tmp_path / 'LQ' / 'a').mkdir(parents=True)
    path = tmp_path / 'LQ' / 'a' / '00000000.jpg'
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    content = cv2.imencode('.jpg', image)[1].tobytes()
    thumbnail = cv2.imencode('.jpg', image[:16, :16])[1].tobytes()
    segment = b'\xff\xe1' + (len(thumbnail) + 2).to_bytes(2, 'big') + thumbnail
    whole = content[:2] + segment + content[2:] + b'what some cameras write behind the image' * 100
    options = {**test_options, 'dataroot_lq': str(tmp_path / 'LQ'), 'io_backend': {'type': 'disk'}}
    del options['dataroot_gt']
    path.write_bytes(whole)
    assert VSRTestDataset(options)[0]['lq'].shape == (1, 3, 48, 64)
    for length in (len(segment) + len(content) * 3 // 4, len(whole) - 4002):
        assert is_cut_short(whole[:length])
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r'00000000\.jpg is damaged'):
            VSRTestDataset(options)[0]


def test_sizes_within_a_clip(tmp_path, test_options):
    (tmp_path / 'LQ' / 'a').mkdir(parents=True)
    for frame, width in enumerate((8, 8, 9)):
        cv2.imwrite(str(tmp_path / 'LQ' / 'a' / f'{frame:08d}.png'), np.zeros((8, width, 3), np.uint8))
    options = {**test_options, 'dataroot_lq': str(tmp_path / 'LQ'), 'io_backend': {'type': 'disk'}}
    del options['dataroot_gt']
    with pytest.raises(InputError, match=r'a/00000002.png of .* has another size than the frames before it'):
        VSRTestDataset(options)[0]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'cache': True}, "there is no key 'cache'; did you mean 'cache_data'?"),
        ({'num_frame': 7}, 'num_frame has no meaning here, clips are tested whole; leave it out.'),
        ({'val_partition': 'official'}, 'lacks clip 240 of val_partition'),
        ({'val_partition': 'REDS4'}, 'lacks clip 015 of val_partition'),
        ({'dataroot_lq': 'nowhere'}, 'dataroot_lq: there is no folder nowhere'),
        ({'scale': 2}, 'is 64x48, but 2 times'),
    ],
)
def test_wrong_options(test_options, change, message):
    with pytest.raises(InputError) as caught:
        VSRTestDataset({**test_options, **change})
    assert message in str(caught.value)


@pytest.mark.parametrize('cache_data', [False, True])
def test_lq_of_every_second_frame(test_options, cache_data):
    """GT is that of all frames up to the last of LQ: of 12 frames the last is left out."""
    whole, thinned = (
        VSRTestDataset(test_options),
        VSRTestDataset({**test_options, 'lq_interval': 2, 'cache_data': cache_data}),
    )
    for number, (length, kept) in enumerate(zip(LENGTHS.values(), (9, 11, 7, 19))):
        item, all_frames = thinned[number], whole[number]
        assert len(all_frames['gt']) == length
        assert torch.equal(item['lq'], all_frames['lq'][:kept:2])
        assert torch.equal(item['gt'], all_frames['gt'][:kept])
        assert item['frames'] == all_frames['frames'][:kept]
