"""Loaders of training data: which sampler they take, and errors in the data."""

from __future__ import annotations

import basicsr.data
from basicsr.data import prefetch_dataloader

from basicsr_plugins.compat.rebind import wrap
from basicsr_plugins.errors import InputError


def build_dataloader() -> None:
    """Let a dataset put its own sampler around the toolbox's, by `make_sampler(sampler, batch_size, seed)`.

    BasicSR gives each worker one seed, in every version: crops and flips depend on the number of workers, and a resumed
    run starts its epoch anew, with other ones. A batch that is larger than the data is refused too: an epoch would have
    no batch, and training end without a step.
    """

    def make(original):
        def build(dataset, dataset_opt, num_gpu=1, dist=False, sampler=None, seed=None):
            if sampler is not None and hasattr(dataset, 'make_sampler'):
                for key in ('batch_size_per_gpu', 'num_worker_per_gpu'):
                    if key not in dataset_opt:
                        raise InputError(f'datasets: {dataset_opt["name"]}: the key {key!r} is missing.')
                batch_size = dataset_opt['batch_size_per_gpu'] * (1 if dist else max(num_gpu, 1))
                sampler = dataset.make_sampler(sampler, batch_size, seed)
            loader = original(dataset, dataset_opt, num_gpu=num_gpu, dist=dist, sampler=sampler, seed=seed)
            if sampler is not None and len(loader) == 0:
                raise InputError(
                    f'datasets: {dataset_opt["name"]}: an epoch of {len(sampler)} samples holds no batch of '
                    f'{loader.batch_size}; lower batch_size_per_gpu or raise dataset_enlarge_ratio.'
                )
            return loader

        return build

    wrap(basicsr.data, 'build_dataloader', make)


def prefetch_errors() -> None:
    """Let an error in the data end the run with `prefetch_mode: cpu` too.

    BasicSR's prefetching thread dies with the error, in every version, and training waits for it for ever.
    """

    def make_run(original):
        def run(self):
            try:
                original(self)
            except Exception as error:
                self.error = error
                self.queue.put(None)

        return run

    def make_next(original):
        def next_item(self):
            try:
                return original(self)
            except StopIteration:
                if hasattr(self, 'error'):
                    raise self.error from None
                raise

        return next_item

    wrap(prefetch_dataloader.PrefetchGenerator, 'run', make_run)
    wrap(prefetch_dataloader.PrefetchGenerator, '__next__', make_next)


PATCHES = (build_dataloader, prefetch_errors)
