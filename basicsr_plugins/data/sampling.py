"""The same seed gives the same samples, whatever the number of workers and processes, and after a resume.

The toolbox seeds each DataLoader worker, so its crops and flips depend on how many workers there are, and a resumed run
starts its epoch anew. Here every sample has a seed of its own: (seed, epoch, position in the epoch).
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import NamedTuple

from torch.utils.data import Sampler


class SeededIndex(NamedTuple):
    """What the sampler gives to `__getitem__`: which item, and the seed of the sample made of it."""

    index: int
    seed: tuple[int, ...]


class SeededSampler(Sampler):
    """Give every sample of the toolbox's `EnlargedSampler` a seed of its own, and skip those that training has had.

    Positions count over all processes: one process with batch 4 and two with batch 2 see the same samples.

    Args:
        sampler: The toolbox's sampler, with `epoch`, `rank` and `num_replicas`.
        seed: The run's seed (`manual_seed`).
        batch_size: Samples in a batch of this process.
        resume: `epoch` and `iter` where training resumes; None for a fresh start.
    """

    def __init__(self, sampler: Sampler, seed: int, batch_size: int, resume: dict | None = None):
        self.sampler = sampler
        self.seed = seed
        self.batch_size = batch_size
        self.resume = resume

    def __iter__(self) -> Iterator[SeededIndex]:
        epoch = self.sampler.epoch
        skip = self._samples_to_skip(epoch)
        for number, index in enumerate(self.sampler):
            if number >= skip:
                position = number * self.sampler.num_replicas + self.sampler.rank
                yield SeededIndex(index, (self.seed, epoch, position))

    def __len__(self) -> int:
        return len(self.sampler)

    def _samples_to_skip(self, epoch: int) -> int:
        """How many the interrupted run has had in this epoch; none if that cannot be with this batch size."""
        if self.resume is None or epoch != self.resume['epoch']:
            return 0
        batches = len(self.sampler) // self.batch_size
        done = self.resume['iter'] - epoch * batches
        return done * self.batch_size if 0 <= done <= batches else 0


@contextlib.contextmanager
def seeded(seed: tuple[int, ...]) -> Iterator[None]:
    """Seed Python's `random`, which the choices of a sample come from, and put its state back afterwards."""
    state = random.getstate()
    random.seed(repr(seed))
    try:
        yield
    finally:
        random.setstate(state)
