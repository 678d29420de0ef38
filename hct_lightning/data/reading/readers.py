"""From a path to the image that the network sees.

Legend: c channels, h height, w width.
"""

import numpy as np
from torch import Tensor

from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.geometry import Size, size_of
from hct_lightning.data.reading.image import UnreadableImageError, probe, read_image
from hct_lightning.data.reading.regions import Regions, is_read_by_region, open_regions

SMALLEST = 128  # pixels a side of an image that is taken as it is
WHOLE_BYTES = 2**29  # of pixels; what has more is read by region, where that is possible


class Reader:
    """Reads images.

    Attributes:
        shape: (h, w, c) of every image; of the largest where they vary.
        varies: whether every image has a size of its own, and so is a batch of its own.
    """

    shape: tuple[int, int, int]
    varies = False

    def __call__(self, path: str) -> Tensor:
        """c h w uint8, its memory h w c."""
        raise NotImplementedError

    def into(self, path: str, place: np.ndarray) -> None:
        """Reads to `place`, h w c uint8."""
        np.copyto(place, self(path).permute(1, 2, 0).numpy())


class FileReader(Reader):
    """Reads image files as they come, all to the size that `decoding` says.

    Args:
        decoding: with a size.
        threads: see `read_image`.
    """

    def __init__(self, decoding: Decoding, threads: int = 1) -> None:
        if decoding.size is None:
            raise ValueError("data.resolution is null: give one, for images of a batch have one size, or native")
        self.decoding = decoding
        self.threads = threads
        self.shape = (*decoding.size, decoding.channels)

    def __call__(self, path: str) -> Tensor:
        return read_image(path, self.decoding, threads=self.threads)


class NativeReader(Reader):
    """Reads every image at its own size.

    Args:
        decoding: without a size.
        largest: (height, width) of the largest image, as far as is known.
        whole_bytes: of pixels; an image that has more is opened, to be read by region. None: all are read whole.
    """

    varies = True

    def __init__(
        self, decoding: Decoding, largest: Size = (SMALLEST, SMALLEST), whole_bytes: int | None = None
    ) -> None:
        self.decoding = decoding
        self.shape = (*largest, decoding.channels)
        self.whole_bytes = whole_bytes

    def opening(self, most_pixels: int) -> "NativeReader":
        """This one, where an image of more pixels is opened to be read by region."""
        return NativeReader(self.decoding, self.shape[:2], most_pixels * self.shape[2])

    def __call__(self, path: str) -> Tensor:
        return read_image(path, self.decoding)

    def open(self, path: str) -> Tensor | Regions:
        """The image, c h w uint8, or one that is read by region.

        Raises:
            UnreadableImageError: naming the file and the reason.
        """
        if is_read_by_region(path) or self._is_large(path):
            image = open_regions(path, self.decoding)
            height, width, _ = image.shape
        else:
            image = self(path)
            height, width = size_of(image)  # data.breast crops
        check_own_size(path, (height, width))
        return image

    def _is_large(self, path: str) -> bool:
        """Whether a file has more bytes of pixels than are read whole, from its head alone."""
        if self.whole_bytes is None:
            return False
        _, height, width = probe(path, max_pixels=self.decoding.max_pixels)
        return height * width * self.decoding.channels > self.whole_bytes


def check_own_size(path: str, size: Size) -> None:
    """Raises UnreadableImageError for an image that is too small to be taken as it is."""
    if min(size) < SMALLEST:
        raise UnreadableImageError(
            f"{path}: {size[1]}x{size[0]} pixels are too few for data.resolution=native, which takes {SMALLEST} a side; "
            "remove it, or give data.on_error=skip"
        )
