"""Which images come when: derived from the seed and the step, never stored.

A run that was interrupted asks for the same images again, whatever the number of ranks.
"""

from collections.abc import Callable, Iterator
from itertools import count, islice

import numpy as np
from torch.utils.data import Sampler


class GlobalBatches(Sampler[list[int]]):
    """The sequence of global batches, numbered by optimiser step; yields this rank's micro-batches.

    Each epoch is a permutation drawn from (seed, epoch) whose last, incomplete global batch is
    dropped. Iterating starts at the current step and gives one epoch's number of batches, so a
    run resumed in the middle of an epoch goes on with the batch that it would have seen.

    Args:
        size: number of images.
        global_batch: images per optimiser step, over all ranks.
        seed: of the order.
        step: gives the number of optimiser steps taken so far.
        rank: of this process; it takes every `world`-th image of a global batch.
        world: number of processes. Where it does not divide the global batch, shares differ by one.
        micro_batches: parts that a rank's share is seen in, one after the other.
        last_step: gives the number of optimiser steps that training takes; what comes after is not read ahead.

    Raises:
        ValueError: when there are fewer images than one global batch, or fewer in a global batch
            than micro-batches of all ranks.
    """

    def __init__(
        self,
        size: int,
        global_batch: int,
        *,
        seed: int,
        step: Callable[[], int],
        rank: int = 0,
        world: int = 1,
        micro_batches: int = 1,
        last_step: Callable[[], float] = int,
    ) -> None:
        if size < global_batch:
            raise ValueError(
                f"{size} training images are fewer than one global batch of {global_batch}; "
                "use a smaller data.batch_size or fewer devices"
            )
        if global_batch < world * micro_batches:
            raise ValueError(
                f"a global batch of {global_batch} can't be divided into {micro_batches} "
                f"micro-batches on {world} ranks; use a larger data.batch_size"
            )
        self.size = size
        self.global_batch = global_batch
        self.seed = seed
        self.step = step
        self.rank = rank
        self.world = world
        self.micro_batches = micro_batches
        self.last_step = last_step

    @property
    def steps_per_epoch(self) -> int:
        """Global batches, that is optimiser steps, per epoch."""
        return self.size // self.global_batch

    def __len__(self) -> int:
        """Micro-batches per epoch."""
        return self.steps_per_epoch * self.micro_batches

    def epoch(self, step: int) -> int:
        """The epoch that optimiser step `step` belongs to."""
        return step // self.steps_per_epoch

    def order(self, epoch: int) -> np.ndarray:
        """The permutation of the images in `epoch`."""
        return np.random.default_rng((self.seed, epoch)).permutation(self.size)

    @property
    def position(self) -> int:
        """The number of the micro-batch that comes next, counted from the beginning of training."""
        return self.step() * self.micro_batches

    @property
    def beyond_epoch(self) -> float:
        """Micro-batches that training takes after the epoch's number of them from here."""
        return max(0, self.last_step() - self.step() - self.steps_per_epoch) * self.micro_batches

    def __iter__(self) -> Iterator[list[int]]:
        return islice(self.onwards(), len(self))

    def onwards(self) -> Iterator[list[int]]:
        """From the current step on, without an end."""
        epoch, order = -1, np.empty(0)
        for step in count(self.step()):
            if self.epoch(step) != epoch:
                epoch = self.epoch(step)
                order = self.order(epoch)
            start = step % self.steps_per_epoch * self.global_batch
            share = order[start : start + self.global_batch][self.rank :: self.world]
            for micro_batch in np.array_split(share, self.micro_batches):
                yield micro_batch.tolist()


class EveryImageOnce(Sampler[int]):
    """Image i on rank i mod world, in order; every rank gives the same number.

    Ranks that would run out give -1 - i for some image i again, so that all ranks take the same
    number of steps; such an image is padding and is not counted.

    Args:
        size: number of images.
        rank: of this process.
        world: number of processes.
    """

    def __init__(self, size: int, *, rank: int = 0, world: int = 1) -> None:
        self.size = size
        self.rank = rank
        self.world = world

    def __len__(self) -> int:
        return -(-self.size // self.world)

    def __iter__(self) -> Iterator[int]:
        for position in range(self.rank, len(self) * self.world, self.world):
            yield position if position < self.size else -1 - position % self.size
