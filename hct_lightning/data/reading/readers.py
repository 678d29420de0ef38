"""From a path to the image that the network sees.

Legend: c channels, h height, w width.
"""

import numpy as np
from torch import Tensor

from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.image import read_image


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
    """Reads image files as they come, all to the size that `decoding` says."""

    def __init__(self, decoding: Decoding) -> None:
        if decoding.size is None:
            raise ValueError("data.resolution is null: give one, for images of a batch have one size")
        self.decoding = decoding
        self.shape = (*decoding.size, decoding.channels)

    def __call__(self, path: str) -> Tensor:
        return read_image(path, self.decoding)
