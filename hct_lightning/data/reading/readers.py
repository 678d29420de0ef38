"""From a path to the image that the network sees.

Legend: c channels, h height, w width.
"""

from pathlib import Path

import numpy as np
from torch import Tensor

from hct_lightning.data.reading import geometry as geo
from hct_lightning.data.reading.image import read_image
from hct_lightning.data.reading.window import Window


class Reader:
    """Reads images of one shape.

    Attributes:
        shape: (h, w, c) of every image.
    """

    shape: tuple[int, int, int]

    def __call__(self, path: str) -> Tensor:
        """c h w uint8, its memory h w c."""
        raise NotImplementedError

    def into(self, path: str, place: np.ndarray) -> None:
        """Reads to `place`, h w c uint8."""
        np.copyto(place, self(path).permute(1, 2, 0).numpy())


class FileReader(Reader):
    """Reads image files as they come; arguments as of `read_image`."""

    def __init__(
        self,
        *,
        channels: int,
        size: geo.Size,
        geometry: geo.Geometry,
        max_pixels: int,
        window: Window | None = None,
        srgb: bool = False,
        breast: bool = False,
    ) -> None:
        self.shape = (*size, channels)
        self.options = {
            "channels": channels,
            "size": size,
            "geometry": geometry,
            "max_pixels": max_pixels,
            "window": window,
            "srgb": srgb,
            "breast": breast,
        }

    def __call__(self, path: str | Path) -> Tensor:
        return read_image(path, **self.options)


class Reduced(Reader):
    """Reduces each image to `pixels` a side and enlarges it again.

    A control that keeps the network's input size but takes the fine detail away.
    """

    def __init__(self, reader: Reader, pixels: int) -> None:
        self.reader = reader
        self.shape = reader.shape
        self.pixels = pixels

    def __call__(self, path: str) -> Tensor:
        small = geo.resize(self.reader(path), geo.as_size(self.pixels))
        return geo.resize(small, self.shape[:2])
