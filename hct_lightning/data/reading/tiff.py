"""TIFF files of many bands, of 16-bit and of float colours: what satellites send and Pillow can't read."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from hct_lightning.data.reading.window import Window, to_uint8

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # TIFF and BigTIFF, of either byte order
_BITS, _SAMPLES = 258, 277  # tags


def is_multi_band(path: Path | str) -> bool:
    """Whether it is a TIFF that Pillow can't read, or would read with eight of its sixteen bits."""
    with open(path, "rb") as file:
        if file.read(4) not in _MAGIC:
            return False
        file.seek(0)
        try:
            with Image.open(file) as image:
                tags = getattr(image, "tag_v2", {})
                return tags.get(_SAMPLES, 1) > 1 and max(tags.get(_BITS, (1,))) > 8
        except (UnidentifiedImageError, SyntaxError, KeyError, ValueError):
            return True


def probe(path: Path | str) -> tuple[int, int, int]:
    """Bands, height and width."""
    with _page(path) as page:
        return page.samplesperpixel, page.imagelength, page.imagewidth


def read(path: Path | str, channels: int, window: Window | None) -> np.ndarray:
    """h w bands uint8.

    Raises:
        ValueError: when the file has another number of bands than `channels`.
    """
    with _page(path) as page:
        if page.samplesperpixel != channels:
            raise ValueError(
                f"it has {page.samplesperpixel} bands where data.channels={channels}; all images take the same"
            )
        values = page.asarray()
        if page.axes.startswith("S"):  # band after band
            values = np.moveaxis(values, 0, -1)
    return to_uint8(np.ascontiguousarray(values), window)


@contextmanager
def _page(path: Path | str) -> Iterator[Any]:
    try:
        import tifffile
    except ImportError as error:
        raise ValueError("a TIFF of this kind takes tifffile: pip install 'hct-lightning[data]'") from error
    try:
        with tifffile.TiffFile(path) as file:
            yield file.pages.first
    except (tifffile.TiffFileError, RuntimeError, struct.error, LookupError) as error:
        raise ValueError(f"not a TIFF that can be read: {error}") from error
