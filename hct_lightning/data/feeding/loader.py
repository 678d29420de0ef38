"""Images to batches: the dataset, and the loader whose threads read ahead of the loop.

Threads and not processes: decoders release Python's lock, and an image of 48 MB that a process has
read takes longer to hand over through shared memory than to read. Legend: b batch, c channels,
h height, w width.
"""

import logging
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler

from hct_lightning.data.feeding.samplers import GlobalBatches
from hct_lightning.data.reading.image import UnreadableImageError
from hct_lightning.data.reading.readers import Reader
from hct_lightning.machine import runtime

log = logging.getLogger(__name__)

BATCHES_ON_DEVICE = 2  # of a GPU, beside the one that is trained on: see Loader


class Batch(NamedTuple):
    """What the loader gives.

    images: b c h w uint8, channels_last in memory.
    labels: b int64; where images are mixed, b classes floats.
    index: b int64, position in the split; negative for padding, which must not be counted.
    """

    images: Tensor
    labels: Tensor
    index: Tensor


class Images:
    """The images of a split and their labels.

    Args:
        paths: image files.
        labels: class indices in step with `paths`.
        reader: gives the image of a path.
        skipped: where unreadable files are noted with the reason; without it they end the run.
        replace: shows the next readable image of the split instead of a skipped one, for training;
            otherwise a black one, which is not counted.
    """

    def __init__(
        self,
        paths: Sequence[str],
        labels: Sequence[int],
        reader: Reader,
        *,
        skipped: dict[str, str] | None = None,
        replace: bool = False,
    ) -> None:
        self.paths = paths
        self.labels = labels
        self.reader = reader
        self.skipped = skipped
        self.replace = replace

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        """Image, label and index, which is negative where the image is not to be counted."""
        height, width, channels = self.reader.shape
        place = np.empty((height, width, channels), np.uint8)
        label, index = self.into(index, place)
        return torch.from_numpy(place).permute(2, 0, 1), label, index

    def into(self, index: int, place: np.ndarray) -> tuple[int, int]:
        """Reads an image to `place`, h w c uint8; gives its label and index."""
        i = index if index >= 0 else -1 - index  # padding shows an image, but is not counted
        for j in range(i, i + len(self.paths)) if self.replace else (i,):
            j %= len(self.paths)
            path = self.paths[j]
            if self.skipped is not None and path in self.skipped:
                continue
            try:
                self.reader.into(path, place)
                return self.labels[j], index
            except UnreadableImageError as error:
                if self.skipped is None:
                    raise
                self.skipped[path] = str(error)
                log.warning("skipped: %s", error)
        if self.replace:
            raise UnreadableImageError(f"none of the {len(self.paths)} images can be read")
        place.fill(0)
        return self.labels[i], -1 - i


class Loader:
    """Batches of a dataset, in order, read ahead of the loop by threads.

    On a GPU the batch after the one in use is on its way while that one is computed with.

    Args:
        images: the dataset.
        batches: gives the indices of each batch; asked again for every pass.
        num_workers: threads that read; 0 reads in the loop.
        prefetch_factor: batches that are kept ready, at least.
        device: where batches go; CPU batches stay where they are.

    Attributes:
        waited_s: seconds that the loop has waited inside `next`.
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
        self.num_workers = num_workers
        self.prefetch_factor = prefetch_factor
        self.device = device
        self.pinned = device is not None and device.type == "cuda"
        self.waited_s = 0.0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        batches = self._on_device() if self.pinned else self._read()
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.waited_s += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def _empty(self, size: int) -> Tensor:
        """b h w c uint8. Made in the main thread: glibc keeps that memory between batches."""
        return torch.empty((size, *self.images.reader.shape), dtype=torch.uint8, pin_memory=self.pinned)

    def _read(self) -> Iterator[Batch]:
        if self.num_workers == 0:
            for indices in self.batches:
                pixels = self._empty(len(indices))
                places = zip(indices, pixels.numpy(), strict=True)
                yield _batch(pixels, [self.images.into(i, place) for i, place in places])
            return
        pool = ThreadPoolExecutor(self.num_workers, "loader")
        reading: deque[Reading] = deque()
        try:
            for indices in self.batches:
                pixels = self._empty(len(indices))
                places = zip(indices, pixels.numpy(), strict=True)
                jobs = [pool.submit(self.images.into, i, place) for i, place in places]
                reading.append(Reading(pixels, jobs))
                # The threads must have something to read beside what is kept ready.
                if len(reading) > self.prefetch_factor + self.num_workers // len(indices):
                    yield reading.popleft().batch()
            while reading:
                yield reading.popleft().batch()
        finally:
            pool.shutdown(cancel_futures=True)

    def _on_device(self) -> Iterator[Batch]:
        stream = torch.cuda.Stream(self.device)
        moved = None
        for batch in self._read():
            with torch.cuda.stream(stream):
                moving = Batch(*(part.to(self.device, non_blocking=True) for part in batch))
            arrived = stream.record_event()
            if moved is not None:
                yield _ready(*moved)
            moved = moving, arrived
        if moved is not None:
            yield _ready(*moved)

    # The order of batches is derived from the step: there is nothing to save, and Lightning
    # should not warn that there isn't.
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class Pixels:
    """The images of a loader's batches, without the labels; can be gone through again."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self.loader:
            yield batch.images


class Reading(NamedTuple):
    """A batch that is being read: its pixels, b h w c, and a job for each image."""

    pixels: Tensor
    jobs: list[Future[tuple[int, int]]]

    def batch(self) -> Batch:
        """Waits for the batch; raises what reading raised."""
        return _batch(self.pixels, [job.result() for job in self.jobs])


def _batch(pixels: Tensor, facts: list[tuple[int, int]]) -> Batch:
    """b h w c and (label, index) of each image -> a batch, channels_last without a copy."""
    labels, index = zip(*facts, strict=True)
    return Batch(pixels.permute(0, 3, 1, 2), torch.tensor(labels), torch.tensor(index))


def _ready(batch: Batch, arrived: Any) -> Batch:
    """Lets the current stream wait until the batch is on the device, and keeps its memory so long."""
    current = torch.cuda.current_stream(batch.images.device)
    current.wait_event(arrived)
    for part in batch:
        part.record_stream(current)
    return batch


def auto_workers(option: int | str, *, ranks_here: int = 1) -> int:
    """`data.num_workers`: `auto` leaves one CPU of this rank's share to the training loop."""
    if option == "auto":
        return min(8, max(1, runtime.cpus_of_a_rank(ranks_here) - 1))
    return int(option)
