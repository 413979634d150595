"""LR frames of any scale, and training samples whose scale is chosen for each."""

from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.utils.matlab_functions import imresize

from basicsr_plugins.data.sampling import SeededIndex
from basicsr_plugins.data.vsr_test_dataset import VSRTestDataset
from basicsr_plugins.data.vsr_train_dataset import VSRTrainDataset
from basicsr_plugins.errors import InputError
from basicsr_plugins.scales import Span, lr_size, scaled_size


@pytest.fixture(scope='module')
def gt(tmp_path_factory):
    """Two clips of six frames of 71x53, whose red and green are the column and the row, and blue is smooth noise."""
    root = tmp_path_factory.mktemp('gt')
    rows, columns = np.mgrid[0:53, 0:71].astype(np.float32)
    for clip in ('000', '001'):
        (root / clip).mkdir()
        for i in range(6):
            noise = np.random.default_rng(i).random((53, 71), dtype=np.float32)
            blue = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)
            image = np.stack([blue, 4 * rows, 3 * columns], axis=-1).round().astype(np.uint8)
            cv2.imwrite(str(root / clip / f'{i:08d}.png'), image)
    return root


def train_options(gt, **changes):
    return {
        **{'name': 'clips', 'type': 'VSRTrainDataset', 'phase': 'train', 'scale': 4, 'dataroot_gt': str(gt)},
        **{'io_backend': {'type': 'disk'}, 'num_frame': 3, 'gt_size': 16, 'use_hflip': False, 'use_rot': False},
        **{'scale_range': [1.5, 4], 'lq_size': 12, **changes},
    }


def test_sizes():
    for target in range(1, 70):
        for scale in (1, 2, 3, 4, 2.7, 1.15, Fraction(8, 3), 16):
            (h, _) = lr_size((target, target), scale)
            assert scaled_size((h, h), scale)[0] <= target < scaled_size((h + 1, h + 1), scale)[0]


@pytest.mark.parametrize('scale', [2, 2.7, [1.5, 3.5]])
@pytest.mark.parametrize('name', ['bicubic', 'bicubic_aliased'])
def test_whole_clips(gt, scale, name):
    """GT is cropped to the scaled size; LR frames are the toolbox's, where its factor is the true one."""
    options = {'name': 'clips', 'type': 'VSRTestDataset', 'phase': 'val', 'scale': scale, 'dataroot_gt': str(gt)}
    dataset = VSRTestDataset({**options, 'degradation': name, 'io_backend': {'type': 'disk'}})
    item = dataset.clip(0)
    lq, true = item['lq'][2], item['gt'][2]
    assert tuple(true.shape[-2:]) == scaled_size(lq.shape[-2:], scale)
    assert all(old - new < 4 for old, new in zip((53, 71), true.shape[-2:]))
    image = cv2.imread(str(gt / '000' / '00000002.png'))[: true.shape[-2], : true.shape[-1], ::-1]
    assert np.array_equal((true * 255).round().byte().permute(1, 2, 0).numpy(), image)
    if scale == 2 and name == 'bicubic':
        expected = imresize(image.astype(np.float32) / 255, 0.5)
        assert np.abs(lq.permute(1, 2, 0).numpy() - expected).max() < 0.51 / 255
    middle = slice(4, -4)  # places correspond: columns and rows are linear, and stay so
    for channel, step, axis in ((0, 3, -1), (1, 4, -2)):
        true_factor = true.size(axis) / lq.size(axis)
        centres = (torch.arange(lq.size(axis)) + 0.5) * true_factor - 0.5
        found = lq[channel].mean(-2 if axis == -1 else -1)[middle] * 255
        torch.testing.assert_close(found, step * centres[middle], rtol=0, atol=0.8)


def test_samples(gt):
    """Each has scales of its own, LR of the whole patch, and the crop that its place says."""
    dataset = VSRTrainDataset(train_options(gt))
    factors = []
    for number in range(40):
        sample = dataset[SeededIndex(number % len(dataset), (0, 0, number))]
        assert sample['lq'].shape == (3, 3, 12, 12)
        assert sample['gt'].shape == (3, 3, 16, 16)
        for axis, values in enumerate(sample['place'].tolist()):
            span = Span(*values)
            assert (span.length, span.first, span.stop - span.start) == (12, 0, 16)
            assert 0 <= span.start < span.stop <= span.target
            factors.append(span.target / 12)
            # the row or column that the crop shows, by its colour, and the one where LR pixels lie
            channel, step = (1, 4) if axis == 0 else (0, 3)
            crop = (sample['gt'][0, channel] * 255).mean(1 - axis)
            lq = (sample['lq'][0, channel] * 255).mean(1 - axis)
            first = crop[0] / step - span.start  # of the patch
            centres = first + (torch.arange(12) + 0.5) * span.target / 12 - 0.5
            torch.testing.assert_close(lq[3:-3], step * centres[3:-3], rtol=0, atol=0.6)
    assert 1.4 < min(factors) < 1.7
    assert 3.7 < max(factors) <= 4
    same = VSRTrainDataset(train_options(gt, same_scale=True))
    for number in range(5):
        rows, columns = same[SeededIndex(number, (0, 0, number))]['place'].tolist()
        assert rows[1] == columns[1]


@pytest.mark.parametrize('num_worker', [0, 2])
def test_the_same_samples_whatever_the_workers(gt, num_worker):
    """And processes: two with half the batch each see what one sees."""
    options = train_options(gt, use_hflip=True, use_rot=True, degradation='bicubic_aliased')
    options.update(num_worker_per_gpu=num_worker, batch_size_per_gpu=2)
    dataset = build_dataset(options)
    expected = [dataset[SeededIndex(index, (7, 1, position))] for position, index in enumerate(order(dataset))]
    assert len({tuple(sample['place'].flatten().tolist()) for sample in expected}) > 6
    position = 0
    for rank in range(2):
        sampler = EnlargedSampler(dataset, 2, rank, 1)
        loader = build_dataloader(dataset, options, num_gpu=1, dist=False, sampler=sampler, seed=7)
        sampler.set_epoch(1)
        position = rank
        for batch in loader:
            for lq, gt_crop, place in zip(batch['lq'], batch['gt'], batch['place']):
                sample = expected[position]
                assert torch.equal(lq, sample['lq'])
                assert torch.equal(gt_crop, sample['gt'])
                assert torch.equal(place, sample['place'])
                position += 2


def order(dataset):
    """The items of epoch 1, of all processes."""
    parts = []
    for rank in range(2):
        sampler = EnlargedSampler(dataset, 2, rank, 1)
        sampler.set_epoch(1)
        parts.append(list(sampler))
    return [index for pair in zip(*parts) for index in pair]


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'lq_interval': 2, 'num_frame': 3}, 'lq_interval is not for scale_range'),
        ({'scale_range': [4, 2]}, 'scale_range must be the least and the greatest factor'),
        ({'scale_range': [0.5, 2]}, 'scale_range must be .* from 1 to 16'),
        ({'gt_size': 20}, 'LQ patches of 12 make GT patches of 18 at scale 1.5; set a larger lq_size'),
        ({'scale_range': [2, 6]}, 'scale_range gives patches of up to 72, but the frames of clip 000 are 71x53'),
        ({'degradation': 'film'}, "degradation may be bicubic or bicubic_aliased, but is 'film'"),
        ({'degradation_prob': 0.5}, 'degradation_prob is not for scale_range'),
        ({'scale_range': None}, 'lq_size is for scale_range, which is not there'),
        ({'uint8': True}, 'degradation gives LQ patches that are not rounded; leave uint8 out'),
    ],
)
def test_wrong_options(gt, changes, message):
    with pytest.raises(InputError, match=message):
        VSRTrainDataset(train_options(gt, **changes))


def test_patches_of_one_scale_need_a_whole_factor(gt):
    options = train_options(gt, scale=2.7, dataroot_lq='.')
    del options['scale_range'], options['lq_size']
    with pytest.raises(InputError, match=r'scale is 2.7, at which patches of LQ and GT cannot'):
        VSRTrainDataset(options)


def test_gt_of_another_size(gt, tmp_path):
    (tmp_path / '000').mkdir()
    for i in range(6):
        cv2.imwrite(str(tmp_path / '000' / f'{i:08d}.png'), np.zeros((20, 26, 3), np.uint8))
    options = {'name': 'clips', 'type': 'VSRTestDataset', 'phase': 'val', 'scale': 2.7, 'dataroot_gt': str(gt)}
    options.update(dataroot_lq=str(tmp_path), io_backend={'type': 'disk'}, val_partition=['000'])
    (tmp_path / '001').symlink_to(tmp_path / '000')
    with pytest.raises(InputError, match=r'is 71x53, but 2.7 times 000/00000000.png of .* \(26x20\) would be 70x54'):
        VSRTestDataset(options)
