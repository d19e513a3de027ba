# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Random numbers that depend on the iteration alone, and batches that know their iteration.

What an iteration draws follows from (seed, rank, iteration): nothing has to be stored to draw the
same again, whatever was drawn before, by how many workers, and however far they had read ahead.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from ..ops._arguments import integer

# One stream of random numbers for each use of the same counter.
EPOCH, STEP, DATA = range(3)


def seed_generators(*key: int, cuda: bool = True) -> None:
    """Seeds Python's, NumPy's and PyTorch's global generators with a hash of a key.

    Args:
        key: Non-negative integers of any size.
        cuda: Whether to seed the generators of all CUDA devices too.
    """
    words = np.random.SeedSequence(key).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(words)  # noqa: NPY002 - the global generator is what transforms draw from
    seed = int(words[1]) << 32 | int(words[2])
    if cuda:
        torch.manual_seed(seed)
    else:  # in a worker, where CUDA must not be touched
        torch.default_generator.manual_seed(seed)


class _Batch(list):
    """Indices of a batch, with the key of the random numbers that loading it may draw."""

    key: tuple[int, ...]


def _load(dataset: Dataset, load: Any, batch: list[int]) -> list:
    if isinstance(batch, _Batch):
        seed_generators(*batch.key, cuda=False)
    return load(batch) if load is not None else [dataset[index] for index in batch]


class SeededBatches(Sampler):
    """The batches of a data loader, loaded with random numbers of their own.

    Replaces the loader's batch sampler. Batch number i is the one that iteration i uses; before a
    worker (or the main process, without workers) loads it, Python's, NumPy's and PyTorch's CPU
    generators are seeded with a hash of (seed, rank, i). So the images are the same for any number
    of workers, and the first batches can be left out without loading them.

    Args:
        loader: A loader of batches of a map-style data set, whose iteration has not begun.
        seed: Seed of the training.
        rank: Rank of this process.

    Raises:
        TypeError: If the loader does not read batches by their indices.
    """

    def __init__(self, loader: DataLoader, seed: int, rank: int) -> None:
        if loader.batch_sampler is None or isinstance(loader.dataset, IterableDataset):
            raise TypeError(
                'the train_dataloader has no batches of indices (batch_size=None or an '
                'IterableDataset)'
            )
        self.batches: Any = loader.batch_sampler
        self.sampler: Any = getattr(self.batches, 'sampler', self.batches)
        self.batch_size = getattr(self.batches, 'batch_size', 1)
        self.iteration = 0
        self._key = tuple(
            integer('SeededBatches', name, value, 0)
            for name, value in (('seed', seed), ('rank', rank))
        )
        self._skip = 0
        self._passes = 0
        dataset: Any = loader.dataset
        dataset.__getitems__ = partial(_load, dataset, getattr(dataset, '__getitems__', None))
        # DataLoader refuses to have these set, since an iterator may be at work with the old ones.
        vars(loader).update(batch_sampler=self, sampler=self)

    def __len__(self) -> int:
        return len(self.batches)

    def skip(self, num_samples: int) -> None:
        """Leaves the first samples of the next iteration over the batches out.

        Args:
            num_samples: A multiple of the batch size. MMEngine's IterBasedTrainLoop calls it so.
        """
        self._skip = num_samples // self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Tells the sampler which pass over the data is the next."""
        if hasattr(self.sampler, 'set_epoch'):
            self.sampler.set_epoch(epoch + self._passes)

    def __iter__(self) -> Iterator[_Batch]:
        for indices in self._rest():
            batch = _Batch(indices)
            batch.key = (*self._key, self.iteration, DATA)
            self.iteration += 1
            yield batch

    def _rest(self) -> Iterator[list[int]]:
        batches = iter(self.batches)
        skip, self._skip = self._skip, 0
        while skip > 0:
            if next(batches, None) is not None:
                skip -= 1
                continue
            # The loop had begun the data again, and counts its passes from 0 now.
            self._passes += 1
            self.set_epoch(0)
            batches = iter(self.batches)
        yield from batches
