"""Images that are read by region, never as a whole.

TIFF, JPEG, PNG and what lies at a url are read by libvips (`vips_regions.py`), whole slides by openslide (`slides.py`); a
`.npy` file is mapped. Anything else with `shape` and `read` can stand for an image, too.

Legend: h height, w width, c channels.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hct_lightning.data.reading.channels import to_channels
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.image import UnreadableImageError, refuse_huge, unreadable
from hct_lightning.data.reading.slides import Slide, is_slide
from hct_lightning.data.reading.vips_regions import Strips, open_with_vips
from hct_lightning.data.reading.window import Window, to_uint8
from hct_lightning.runs import out_of_memory


class Regions:
    """An array, a memory map, or what can be indexed like one, as an image.

    Args:
        values: h w or h w c, of bytes or of the numbers that `window` is for.
        channels: 1 or 3, converted where the array has the other; else as many as the array has.
        window: as `Decoding` has it; floats need one, for no region knows the range of the whole.
        name: of the image, for messages.

    Attributes:
        by_strips: whether rows are held in their whole width while a part of them is read.
        skips: called with the error of a region that can't be read, where such images are skipped; raises it otherwise.

    Raises:
        ValueError: when the array is no such image, or of other numbers: true and false, int8, complex ones.
    """

    def __init__(self, values: Any, channels: int, window: Window | None, name: str = "an array") -> None:
        bands = values.shape[2] if len(values.shape) == 3 else 1
        if len(values.shape) not in (2, 3) or (bands != channels and {bands, channels} != {1, 3}):
            raise ValueError(f"it has the shape {tuple(values.shape)} where data.channels={channels}")
        if values.dtype.kind not in "uif" or values.dtype == np.int8:
            raise ValueError(f"it holds {values.dtype}, which can't be read by region; save it as uint8")
        if values.dtype.kind == "f" and window is None:
            raise ValueError("of floats that are read by region the range has to be given: data.window=[low,high]")
        self._values, self._window, self.name = values, window, name
        self.shape = (*values.shape[:2], channels)
        self.by_strips = isinstance(values, Strips)
        self.skips: Callable[[UnreadableImageError], None] = _raise

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """The pixels of a region, h w c uint8.

        Raises:
            UnreadableImageError: for a damaged file; without a window, where values go beyond the default.
        """
        try:
            values = to_uint8(np.ascontiguousarray(self._values[y0:y1, x0:x1]), self._window)
        except Exception as error:  # damaged files make decoders raise everything there is
            if out_of_memory.shows_in(error):
                raise
            raise unreadable(self.name, error) from error
        return to_channels(values.reshape(y1 - y0, x1 - x0, -1), self.shape[2], self.name)


def _raise(error: UnreadableImageError) -> None:
    raise error


class Turned:
    """An image that is flipped, from left to right and from top to bottom, and then turned by quarters to the left.

    Only a square one may be turned by one quarter or three.
    """

    def __init__(self, image: Any, *, flip: bool, vertical_flip: bool, quarters: int) -> None:
        self._image, self._quarters = image, quarters % 4
        self._flips = vertical_flip, flip
        self.shape, self.name, self.by_strips, self.skips = image.shape, image.name, image.by_strips, image.skips
        assert self._quarters % 2 == 0 or self.shape[0] == self.shape[1]

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """The pixels of a region, h w c uint8."""
        rows, columns = (y0, y1), (x0, x1)
        height, width, _ = self.shape
        if self._quarters == 2:
            rows, columns = (height - y1, height - y0), (width - x1, width - x0)
        else:
            for _ in range(self._quarters):  # back by one, of a square
                rows, columns = columns, (height - rows[1], height - rows[0])
        (top, bottom), (left, right) = (
            (length - b, length - a) if flipped else (a, b)
            for (a, b), length, flipped in zip((rows, columns), (height, width), self._flips, strict=True)
        )
        pixels = self._image.read(top, bottom, left, right)
        step = tuple(slice(None, None, -1 if flipped else 1) for flipped in self._flips)
        return np.ascontiguousarray(np.rot90(pixels[step], self._quarters))


def is_read_by_region(path: Path | str) -> bool:
    """Whether a file is of a kind that is never read as a whole."""
    return "://" in str(path) or Path(path).suffix == ".npy" or is_slide(path)


def open_regions(path: Path | str, decoding: Decoding) -> Regions:
    """A file, or what lies at a url, that is read by region, at its own size, decoded as `decoding` says.

    Raises:
        UnreadableImageError: naming the file and the reason.
    """
    try:
        if decoding.reduce_to is not None:
            raise ValueError("data.reduce_to takes whole images, and this one is read by region; leave it out")
        regions = Regions(_values(path, decoding), decoding.channels, decoding.window, str(path))
    except Exception as error:  # damaged files make decoders raise everything there is
        if out_of_memory.shows_in(error):
            raise
        raise UnreadableImageError(f"{path}: {error}") from error
    height, width, bands = regions.shape
    refuse_huge(path, (bands, height, width), decoding.max_pixels)
    return regions


def _values(path: Path | str, decoding: Decoding) -> Any:
    if is_slide(path):
        if decoding.srgb:
            raise ValueError("data.srgb=true does not go with whole slides; leave it out")
        return Slide(path)
    if Path(path).suffix == ".npy" and "://" not in str(path):
        return np.load(path, mmap_mode="r", allow_pickle=False)
    return open_with_vips(str(path), decoding)
