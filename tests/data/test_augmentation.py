"""Flips and scaling on the device give the toolbox's very values."""

import random

import numpy as np
import pytest
import torch
from basicsr.data.transforms import augment
from torch.utils.data import default_collate

from basicsr_plugins.data.augmentation import choose_flips, to_device_samples, to_floats
from basicsr_plugins.data.sampling import SeededIndex
from basicsr_plugins.data.vsr_train_dataset import VSRTrainDataset

DEVICES = ['cpu', *(['cuda'] if torch.cuda.is_available() else [])]


def test_flips_are_those_of_the_toolbox():
    image = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    patches = torch.from_numpy(image.transpose(2, 0, 1).copy())
    seen = set()
    for seed in range(60):
        random.seed(seed)
        expected = augment(image.astype(np.float32) / 255.0, True, True)
        random.seed(seed)
        flips = choose_flips(True, True)
        seen.add(flips)
        assert np.array_equal(to_floats(patches, flips).numpy(), expected.transpose(2, 0, 1))
    assert seen == {'', 'h', 'v', 't', 'hv', 'ht', 'vt', 'hvt'}


@pytest.mark.parametrize(('options', 'expected'), [((False, False), {''}), ((True, False), {'', 'h'})])
def test_flips_that_are_not_wanted(options, expected):
    assert {choose_flips(*options) for _ in range(100)} == expected


@pytest.mark.parametrize('device', DEVICES)
def test_all_values_are_scaled_exactly(device):
    values = np.arange(256, dtype=np.uint8)
    expected = values.astype(np.float32) / 255.0
    scaled = to_floats(torch.from_numpy(values).reshape(16, 16).to(device), '')
    assert np.array_equal(scaled.cpu().numpy().ravel(), expected)


@pytest.mark.parametrize('device', DEVICES)
def test_uint8_samples_become_those_of_the_dataset(train_options, device):
    floats, small = (VSRTrainDataset({**train_options, 'uint8': uint8}) for uint8 in (False, True))
    items = [SeededIndex(index, (3, index)) for index in range(0, 40, 3)]
    expected = default_collate([floats[item] for item in items])
    batch = default_collate([small[item] for item in items])
    assert batch['lq'].dtype == batch['gt'].dtype == torch.uint8
    assert len(set(batch['flips'])) > 4
    moved = to_device_samples(batch, device)
    assert set(moved) == set(expected)
    for key in ('lq', 'gt'):
        assert moved[key].dtype == torch.float32
        assert torch.equal(moved[key].cpu(), expected[key])


def test_floats_pass_unchanged():
    batch = {'lq': torch.rand(2, 3, 4, 4), 'key': ['a', 'b']}
    moved = to_device_samples(batch, 'cpu')
    assert torch.equal(moved['lq'], batch['lq'])
    assert moved['key'] == ['a', 'b']
