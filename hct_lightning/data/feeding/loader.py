"""Images to batches: the loader, whose threads read ahead of the loop.

Threads and not processes: decoders release Python's lock, and an image of 48 MB that a process has
read takes longer to hand over through shared memory than to read. Legend: b batch, c channels,
h height, w width.
"""

import math
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import BatchSampler

from hct_lightning.data.feeding.images import Images
from hct_lightning.data.feeding.samplers import GlobalBatches
from hct_lightning.data.feeding.transfer import transfer_to
from hct_lightning.data.reading.readers import Reader
from hct_lightning.data.reading.regions import Regions
from hct_lightning.machine import runtime
from hct_lightning.machine.clock import Stopwatch

AHEAD_BYTES = 2**30  # of images of their own sizes that are read before they are asked for


class Batch(NamedTuple):
    """What the loader gives.

    images: b c h w uint8, channels_last in memory; in the place of a batch of one also an image that is read by
        region.
    labels: b int64; where images are mixed, b classes floats.
    index: b int64, position in the split; negative for padding, which must not be counted. One an image, where
        augmentation takes several crops: the first of all images, then the second of all.
    """

    images: Any  # Tensor | Regions: what takes all kinds asks
    labels: Tensor
    index: Tensor


def batches_ahead(reader: Reader, images: int, num_workers: int, prefetch_factor: int) -> int:
    """How many batches of so many images are read before they are asked for."""
    if not num_workers:
        return 0
    # The threads must have something to read beside what is kept ready.
    wanted = prefetch_factor + num_workers // images
    return max(1, min(wanted, AHEAD_BYTES // math.prod(reader.shape))) if reader.varies else wanted


class ReadAhead:
    """Batches in order, read by threads before they are asked for; without threads, when they are.

    Args:
        images: the dataset.
        batches: the indices of each batch.
        number: of the first batch.
        num_workers: threads.
        prefetch_factor: batches that are kept ready, at least.
        pinned: read to memory that a GPU copies from.

    Attributes:
        number: of the batch that comes next.
    """

    def __init__(
        self,
        images: Images,
        batches: Iterator[Sequence[int]],
        *,
        number: int,
        num_workers: int,
        prefetch_factor: int,
        pinned: bool,
    ) -> None:
        self.images = images
        self.batches = batches
        self.number = number
        self.num_workers = num_workers
        self.prefetch_factor = prefetch_factor
        self.pinned = pinned
        self._pool = ThreadPoolExecutor(num_workers, "loader") if num_workers else None
        self._reading: deque[Reading | Alone] = deque()

    def next(self, left: float) -> Batch:
        """Waits for the next batch; raises what reading raised.

        Args:
            left: batches that may still be asked for, with this one; no more are read.
        """
        while len(self._reading) < left and not self._enough():
            self._reading.append(self._begin(next(self.batches)))
        self.number += 1
        return self._reading.popleft().batch()

    def skip(self) -> Batch:
        """Passes over the next batch, which nobody is going to look at: an empty one in its place."""
        self.number += 1
        if self._reading:
            self._reading.popleft()
        else:
            next(self.batches)
        none = torch.empty(0, dtype=torch.int64)
        return Batch(torch.empty((0, self.images.reader.shape[2], 1, 1), dtype=torch.uint8), none, none)

    def _enough(self) -> bool:
        if not self._pool or not self._reading:
            return bool(self._reading)
        images, options = len(self._reading[-1].waits), (self.num_workers, self.prefetch_factor)
        return len(self._reading) > batches_ahead(self.images.reader, images, *options)

    def _begin(self, indices: Sequence[int]) -> "Reading | Alone":
        if self.images.reader.varies:
            jobs = [partial(self.images.native, i) for i in indices]
            return Alone([self._pool.submit(job).result for job in jobs] if self._pool else jobs)
        # b h w c. Made in the main thread: glibc keeps that memory between batches.
        shape = (len(indices), *self.images.reader.shape)
        pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=self.pinned)
        jobs = [partial(self.images.into, i, place) for i, place in zip(indices, pixels.numpy(), strict=True)]
        waits = [self._pool.submit(job).result for job in jobs] if self._pool else jobs
        return Reading(pixels, waits, self.pinned)

    def close(self) -> None:
        """Ends the threads; what they have read is dropped."""
        self._reading.clear()
        if self._pool:
            self._pool.shutdown(cancel_futures=True)


class Reading(NamedTuple):
    """A batch that is being read: its pixels, b h w c, and what waits for each image and gives (label, index)."""

    pixels: Tensor
    waits: Sequence[Callable[[], tuple[int, int]]]
    pinned: bool

    def batch(self) -> Batch:
        labels, index = zip(*(wait() for wait in self.waits), strict=True)
        images = self.pixels.permute(0, 3, 1, 2)
        return Batch(images, torch.tensor(labels, pin_memory=self.pinned), torch.tensor(index))


class Alone(NamedTuple):
    """An image of its own size that is read: what waits for it gives (image, label, index)."""

    waits: Sequence[Callable[[], tuple[Tensor | Regions, int, int]]]

    def batch(self) -> Batch:
        """Raises ValueError for more than one image."""
        if len(self.waits) != 1:
            raise ValueError(f"{len(self.waits)} images of their own sizes can't go through the network together")
        image, label, index = self.waits[0]()
        pixels = image[None] if isinstance(image, Tensor) else image
        return Batch(pixels, torch.tensor([label]), torch.tensor([index]))


class Loader:
    """Batches of a dataset, in order, read ahead of the loop by threads.

    Training batches are read ahead across the end of an epoch, while validation runs. To a GPU a batch is copied
    while the one before is computed with.

    Args:
        images: the dataset.
        batches: gives the indices of each batch; asked again for every pass.
        num_workers: threads that read; 0 reads in the loop.
        prefetch_factor: batches that are kept ready, at least.
        device: where images and labels go; the index stays on the CPU.

    Attributes:
        skips: asked before each batch, whether an empty one will do.
    """

    def __init__(
        self,
        images: Images,
        batches: Collection[Sequence[int]] | GlobalBatches | BatchSampler,
        *,
        num_workers: int = 0,
        prefetch_factor: int = 2,
        device: torch.device | None = None,
    ) -> None:
        self.images = images
        self.batches = batches
        self.order = batches if isinstance(batches, GlobalBatches) else None  # goes on beyond a pass
        self.num_workers = num_workers
        self.prefetch_factor = prefetch_factor
        device = device or torch.device("cpu")
        self._transfer = transfer_to(device) if device.type == "cuda" else None
        self._waiting = Stopwatch(device)
        self._ahead: ReadAhead | None = None
        self.skips: Callable[[], bool] = lambda: False

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def waited_s(self) -> float:
        """Seconds for which the device has waited for batches so far; waits for it."""
        return self._waiting.total_s

    def __iter__(self) -> Iterator[Batch]:
        ahead = self._ahead = self._go_on() or self._begin()
        beyond = self.order.beyond_epoch if self.order else 0
        try:
            for left in range(len(self), 0, -1):
                if self.skips():
                    yield ahead.skip()
                    continue
                start = self._waiting.now()
                batch = ahead.next(left + beyond)
                if self._transfer and isinstance(batch.images, Tensor):
                    images, labels = self._transfer(batch.images, batch.labels)
                    batch = Batch(images, labels, batch.index)
                self._waiting.add(start, self._waiting.now())
                yield batch
        finally:
            if not self.order:
                self.close()

    def _go_on(self) -> ReadAhead | None:
        """What was read ahead in the pass before, if that is what comes now."""
        if self._ahead and self.order and self._ahead.number == self.order.position:
            return self._ahead
        self.close()
        return None

    def _begin(self) -> ReadAhead:
        return ReadAhead(
            self.images,
            self.order.onwards() if self.order else iter(self.batches),
            number=self.order.position if self.order else 0,
            num_workers=self.num_workers,
            prefetch_factor=self.prefetch_factor,
            pinned=self._transfer is not None,
        )

    def close(self) -> None:
        """Ends the threads, until the next pass."""
        if self._ahead:
            self._ahead.close()
            self._ahead = None

    # The order of batches is derived from the step: there is nothing to save, and Lightning
    # should not warn that there isn't.
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class Pixels:
    """The images of a loader's batches, without the labels; read anew each time they are gone through."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self.loader:
            yield batch.images


def auto_workers(option: int | str, *, ranks_here: int = 1) -> int:
    """`data.num_workers`: `auto` leaves one CPU of this rank's share to the training loop.

    Raises:
        ValueError: for what is neither that nor a number of threads.
    """
    if option == "auto":
        return min(8, max(1, runtime.cpus_of_a_rank(ranks_here) - 1))
    if not str(option).isdecimal():
        raise ValueError(f"data.num_workers={option}: give auto, or 0 or more")
    return int(option)
