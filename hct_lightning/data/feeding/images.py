"""The dataset: the images of a split and their labels, with what becomes of files that can't be read."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from hct_lightning.data.reading.image import UnreadableImageError
from hct_lightning.data.reading.readers import SMALLEST, NativeReader, Reader
from hct_lightning.data.reading.regions import Regions

log = logging.getLogger(__name__)

T = TypeVar("T")


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
        self._unreadable: set[str] = set()  # without those that turn out damaged by region: each is tried again

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        """Image, label and index, which is negative where the image is not to be counted."""
        if isinstance(self.reader, NativeReader):
            image, label, index = self.native(index)
            if not isinstance(image, Tensor):
                raise UnreadableImageError(f"{self.paths[index]}: it is too large to be read as a whole")
            return image, label, index
        place = np.empty(self.reader.shape, np.uint8)
        label, index = self.into(index, place)
        return torch.from_numpy(place).permute(2, 0, 1), label, index

    def into(self, index: int, place: np.ndarray) -> tuple[int, int]:
        """Reads an image to `place`, h w c uint8; gives its label and index."""
        read, label, index = self._read(index, lambda path: (self.reader.into(path, place), True))
        if not read:
            place.fill(0)
        return label, index

    def native(self, index: int) -> tuple[Tensor | Regions, int, int]:
        """An image at its own size, its label and index.

        One that is read by region is only opened, and may turn out unreadable later: its `skips` then does as here.
        """
        assert isinstance(self.reader, NativeReader)
        image, label, index = self._read(index, self.reader.open)
        if image is None:
            image = torch.zeros((SMALLEST, SMALLEST, self.reader.shape[2]), dtype=torch.uint8).permute(2, 0, 1)
        if isinstance(image, Regions):
            image.skips = partial(self._skip, image.name)
        return image, label, index

    def _skip(self, path: str, error: UnreadableImageError) -> None:
        """Notes that a file can't be read, or raises that."""
        if self.skipped is None:
            raise error
        if path not in self.skipped:
            log.warning("skipped: %s", error)
        self.skipped[path] = str(error)

    def _read(self, index: int, read: Callable[[str], T]) -> tuple[T | None, int, int]:
        """What reading gives, None where it is not to be counted, with label and index."""
        i = index if index >= 0 else -1 - index  # padding shows an image, but is not counted
        for j in range(i, i + len(self.paths)) if self.replace else (i,):
            j %= len(self.paths)
            path = self.paths[j]
            if path in self._unreadable:
                continue
            try:
                return read(path), self.labels[j], index
            except UnreadableImageError as error:
                self._skip(path, error)
                self._unreadable.add(path)
        if self.replace:
            raise UnreadableImageError(f"none of the {len(self.paths)} images can be read")
        return None, self.labels[i], -1 - i
