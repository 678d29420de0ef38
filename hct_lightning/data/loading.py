"""Images to batches: the dataset, the collation and the loader.

Legend: b batch, c channels, h height, w width.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hct_lightning import runtime, signals
from hct_lightning.data import geometry as geo
from hct_lightning.data.images import UnreadableImageError, read_image


class Batch(NamedTuple):
    """What the loader gives.

    images: b c h w uint8, channels_last in memory.
    labels: b int64.
    index: b int64, position in the split; negative for padding, which must not be counted.
    """

    images: Tensor
    labels: Tensor
    index: Tensor


class Images(Dataset[Batch]):
    """Reads image i, brings it to the network's size, and gives it as uint8.

    Args:
        paths: image files.
        labels: class indices in step with `paths`.
        channels: 1 or 3.
        size: (height, width) of the network's input.
        geometry: `cover` or `paper`.
        max_pixels: larger files are refused.
        window: see `read_image`.
        reduce_to: reduces each image to this many pixels a side and enlarges it again: a control
            that keeps the network's input size but takes the fine detail away.
    """

    def __init__(
        self,
        paths: Sequence[str],
        labels: Sequence[int],
        *,
        channels: int,
        size: geo.Size,
        geometry: geo.Geometry,
        max_pixels: int,
        window: tuple[float, float] | None = None,
        reduce_to: int | None = None,
    ) -> None:
        self.paths = paths
        self.labels = labels
        self.channels = channels
        self.size = size
        self.geometry = geometry
        self.max_pixels = max_pixels
        self.window = window
        self.reduce_to = reduce_to

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Batch:
        i = index if index >= 0 else -1 - index  # padding shows an image, but is not counted
        image = read_image(
            self.paths[i], self.channels, max_pixels=self.max_pixels, window=self.window
        )
        image = geo.apply(image, self.size, self.geometry)
        if self.reduce_to:
            small = geo.resize(image, geo.as_size(self.reduce_to))
            image = geo.resize(small, self.size)
        return Batch(image, self.labels[i], index)


def collate(samples: Sequence[Batch]) -> Batch:
    """Puts c h w images into one b c h w batch whose memory is channels_last."""
    images, labels, index = zip(*samples, strict=True)
    if len(images) == 1 and images[0].permute(1, 2, 0).is_contiguous():
        batch = images[0][None]  # a view: the commonest case of the largest images costs nothing
    else:
        c, h, w = images[0].shape
        batch = torch.empty((len(images), h, w, c), dtype=torch.uint8).permute(0, 3, 1, 2)
        for place, image in zip(batch, images, strict=True):
            place.copy_(image)
    return Batch(batch, torch.tensor(labels), torch.tensor(index))


class Loader(DataLoader[Batch]):
    """A DataLoader that knows how long the loop waited for it.

    Attributes:
        waited_s: seconds spent inside `next`, since the start of the process.
    """

    waited_s = 0.0

    def __iter__(self) -> Iterator[Batch]:
        batches = super().__iter__()
        while True:
            start = time.perf_counter()
            try:
                batch = next(batches, None)
            except UnreadableImageError as error:  # a worker's message is its whole traceback
                message = str(error).rpartition(f"{UnreadableImageError.__name__}: ")[2].strip()
                raise UnreadableImageError(message) from error
            self.waited_s += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    # The order of batches is derived from the step: there is nothing to save, and Lightning
    # should not warn that there isn't.
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def worker_init(_: int) -> None:
    """A loader's worker: one thread, memory kept between images, ended by its parent alone."""
    torch.set_num_threads(1)
    runtime.keep_memory()
    signals.heed_the_parent_alone()


def auto_workers(option: int | str, *, ranks_here: int = 1) -> int:
    """`data.num_workers`: `auto` leaves one CPU of this rank's share to the training process."""
    if option == "auto":
        return min(8, max(1, runtime.cpu_count() // ranks_here - 1))
    return int(option)
