"""SyntheticMotionDataset: seeds, bicubic LR, motion, checks of options."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from basicsr_plugins.data.bicubic_lr import bicubic_downsample
from basicsr_plugins.data.degradation import shrink_bicubic
from basicsr_plugins.data.sampling import SeededIndex
from basicsr_plugins.data.synthetic_motion import lr_flow, make_layers, render
from basicsr_plugins.data.synthetic_motion_dataset import SyntheticMotionDataset
from basicsr_plugins.errors import InputError

OPTIONS = {
    'name': 'generated',
    'type': 'SyntheticMotionDataset',
    'phase': 'train',
    'scale': 4,
    'num_frame': 4,
    'gt_size': 96,
}


def make(**options):
    return SyntheticMotionDataset({**OPTIONS, **options})


def scene(num_frame, seed):
    """The layers of a sample, and their opacities."""
    layers = make_layers(np.random.default_rng([0, *seed]), make().material, num_frame, (96, 96))
    return layers, render(layers, (96, 96))[1]


def test_sample_has_8_bit_values_and_bicubic_lq():
    sample = make()[3]
    assert sample['gt'].shape == (4, 3, 96, 96)
    assert sample['lq'].shape == (4, 3, 24, 24)
    for frames in (sample['gt'], sample['lq']):
        levels = frames * 255
        torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
    gt = (sample['gt'] * 255).round().byte().permute(0, 2, 3, 1).numpy()
    lq = (sample['lq'] * 255).round().byte().permute(0, 2, 3, 1).numpy()
    reference = np.stack([bicubic_downsample(frame, 4) for frame in gt])
    assert np.abs(lq.astype(int) - reference).max() <= 1
    assert (lq == reference).mean() > 0.999


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_shrink_bicubic_is_the_toolbox_imresize(scale):
    frames = np.random.default_rng(0).integers(0, 256, (2, 24, 36, 3), dtype=np.uint8)
    reference = np.stack([bicubic_downsample(frame, scale) for frame in frames])
    difference = np.abs(shrink_bicubic(frames, scale).astype(int) - reference)
    assert difference.max() <= 1
    assert (difference == 0).mean() > 0.99


def test_some_samples_are_degraded_and_the_others_clean():
    """Which ones, their seeds say; the clean ones are those of a dataset without degradation."""
    noise = [{'type': 'noise', 'gaussian_prob': 1}, {'type': 'shrink'}]
    clean, some = make(), make(degradation=noise, degradation_prob=0.5)
    equal = [torch.allclose(clean[i]['lq'], some[i]['lq'], atol=1.01 / 255) for i in range(20)]
    assert 4 <= sum(equal) <= 16
    levels = some[equal.index(True)]['lq'] * 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
    with pytest.raises(InputError, match='degradation_prob needs degradation, which is missing'):
        make(degradation_prob=0.5)


def test_a_sample_depends_on_its_seed_alone():
    dataset = make()
    first = dataset[SeededIndex(0, (1, 2, 3))]
    dataset[SeededIndex(0, (1, 2, 4))]
    again = make()[SeededIndex(5, (1, 2, 3))]  # another item of another instance
    for key in ('gt', 'lq'):
        assert torch.equal(first[key], again[key])
    assert first['key'] == again['key'] == 'synthetic/1_2_3'
    for other in ((0, 2, 3), (1, 0, 3), (1, 2, 4)):
        assert not torch.equal(first['gt'], dataset[SeededIndex(0, other)]['gt'])


def test_workers_give_the_same_samples():
    dataset = make(length=4, num_frame=2, gt_size=32)
    alone, workers = (list(DataLoader(dataset, batch_size=2, num_workers=number)) for number in (0, 2))
    for a, b in zip(alone, workers):
        assert torch.equal(a['gt'], b['gt'])
        assert a['key'] == b['key']


def test_flow_is_that_of_the_layers_in_lr_pixels():
    dataset = make(flow=True, num_frame=3)
    sample = dataset[SeededIndex(0, (0, 0, 5))]
    layers, opacity = scene(3, (0, 0, 5))
    assert sample['flow'].shape == (2, 2, 2, 24, 24)
    for t, s, flow in [(0, 1, sample['flow'][0, 0]), (1, 0, sample['flow'][0, 1]), (2, 1, sample['flow'][1, 1])]:
        np.testing.assert_array_equal(flow, lr_flow(layers, opacity, t, s, 4))


def test_one_frame_is_enough():
    sample = make(num_frame=1, flow=True)[0]
    assert sample['gt'].shape == (1, 3, 96, 96)
    assert sample['flow'].shape == (0, 2, 2, 24, 24)


def test_procedural_pictures_alone_and_photographs_alone():
    assert make(photos=False).material.photos == ()
    assert make(photos=False, kinds=['text'])[0]['gt'].std() > 0.01
    assert make(kinds=[]).material.kinds == ()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'num_frames': 3}, "did you mean 'num_frame'"),
        ({'gt_size': 30}, 'gt_size'),
        ({'num_frame': 0}, 'num_frame must be a whole number from 1'),
        ({'length': 0}, 'length must be a whole number from 1'),
        ({'kinds': ['txt']}, "did you mean 'text'"),
        ({'kinds': [], 'photos': False}, 'nothing is left'),
        ({'photos': '/nowhere'}, 'no folder /nowhere'),
    ],
)
def test_wrong_options_stop_early(options, message):
    with pytest.raises(InputError, match=message):
        make(**options)
