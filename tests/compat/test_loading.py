"""Loaders of training data: the dataset's own sampler, and errors in the data."""

import queue

import basicsr.data
import pytest
import torch
from basicsr.data import prefetch_dataloader
from basicsr.data.data_sampler import EnlargedSampler

from basicsr_plugins.errors import InputError


class Recorded(torch.utils.data.Dataset):
    """Three items; its sampler goes through them backwards."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return index

    def make_sampler(self, sampler, batch_size, seed):
        self.asked = sampler, batch_size, seed
        return list(reversed(range(len(sampler))))


OPTIONS = {'name': 'x', 'phase': 'train', 'batch_size_per_gpu': 1, 'num_worker_per_gpu': 0}


def test_build_dataloader_takes_the_sampler_of_the_dataset():
    sampler = EnlargedSampler(range(3), 1, 0, 1)
    without = basicsr.data.build_dataloader.__wrapped__(Recorded(), OPTIONS, num_gpu=0, sampler=sampler, seed=5)
    assert without.sampler is sampler
    for num_gpu, dist, batch_size in ((0, False, 1), (2, False, 2), (2, True, 1)):
        dataset = Recorded()
        loader = basicsr.data.build_dataloader(dataset, OPTIONS, num_gpu=num_gpu, dist=dist, sampler=sampler, seed=5)
        assert dataset.asked == (sampler, batch_size, 5)
        assert list(loader.sampler) == [2, 1, 0]
    loader = basicsr.data.build_dataloader(dataset, {**OPTIONS, 'phase': 'val'})
    assert [item.item() for item in loader] == [0, 1, 2]


def test_a_batch_larger_than_the_data_is_refused():
    options, sampler = {**OPTIONS, 'batch_size_per_gpu': 4}, EnlargedSampler(range(3), 1, 0, 1)
    without = basicsr.data.build_dataloader.__wrapped__(Recorded(), options, num_gpu=0, sampler=sampler, seed=0)
    assert len(without) == 0  # training would end without a step
    with pytest.raises(InputError, match='an epoch of 3 samples holds no batch of 4; lower batch_size_per_gpu'):
        basicsr.data.build_dataloader(Recorded(), options, num_gpu=0, sampler=sampler, seed=0)


@pytest.mark.parametrize('key', ['batch_size_per_gpu', 'num_worker_per_gpu'])
def test_a_missing_key_is_named(key):
    options = {name: value for name, value in OPTIONS.items() if name != key}
    with pytest.raises(InputError, match=f"datasets: x: the key '{key}' is missing"):
        basicsr.data.build_dataloader(Recorded(), options, num_gpu=0, sampler=EnlargedSampler(range(3), 1, 0, 1))


def test_prefetch_errors():
    class Broken(torch.utils.data.Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            if index == 2:
                raise ValueError('damaged')
            return index

    loader = prefetch_dataloader.PrefetchDataLoader(num_prefetch_queue=1, dataset=Broken())
    generator = iter(loader)
    assert [next(generator).item(), next(generator).item()] == [0, 1]
    with pytest.raises(ValueError, match='damaged'):
        next(generator)

    unpatched = prefetch_dataloader.PrefetchGenerator.__new__(prefetch_dataloader.PrefetchGenerator)
    unpatched.generator, unpatched.queue = iter(torch.utils.data.DataLoader(Broken())), queue.Queue()
    with pytest.raises(ValueError, match='damaged'):  # in the thread, where nobody sees it
        prefetch_dataloader.PrefetchGenerator.run.__wrapped__(unpatched)
    assert unpatched.queue.qsize() == 2  # and no None, for which training waits
