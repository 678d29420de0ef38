"""JPEGs by a decoder of our own, `cpp/jpeg.cpp`: a large one by several threads, and any in less time by one.

It gives the pixels that libjpeg-turbo gives, below libvips and Pillow. What it does not take, it leaves to them:
progressive or damaged files, CMYK, chroma that has to be enlarged (of 4:2:0 at full size).
"""

import ctypes
import functools
import os
from importlib.resources import files
from pathlib import Path

import numpy as np

from hct_lightning.data.reading.geometry import Size
from hct_lightning.machine.compiled import compiled_library

_BESIDE = 2**20  # bytes of a file that are no pixels, at most
_HEAD = 2**18  # bytes of it that mostly hold all before the pixels
_HEADERS = ("jpeg.h", "dct.h", "fast.h", "frame.h", "huffman.h", "pixels.h", "reader.h")


def decode(path: Path | str, shrink: int, source: Size, channels: int, threads: int) -> np.ndarray | None:
    """h w c uint8, reduced by `shrink`; None where another decoder must read.

    Args:
        path: a JPEG.
        shrink: 1, 2, 4 or 8; what is left over counts as one pixel more.
        source: (height, width) of the file.
        channels: 1 or 3, those of the file.
        threads: that decode.
    """
    library = compiled()
    height, width = (-(-side // shrink) for side in source)
    what = shrink, height, width, channels
    try:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if library is None or size > 4 * source[0] * source[1] + _BESIDE:
                return None
            content = np.empty(size, np.uint8)
            room = content.data
            head = file.readinto(room[:_HEAD])
            if not library.hct_jpeg_takes(content.ctypes.data, head, *what):
                return None
            while head < size and (more := file.readinto(room[head:])):
                head += more
    except OSError:
        return None
    pixels = np.empty((height, width, channels), np.uint8)
    known = library.hct_jpeg(content.ctypes.data, head, *what, pixels.ctypes.data, threads, 0)
    return pixels if known else None


@functools.cache
def compiled() -> ctypes.CDLL | None:
    """The decoder as a library; None where it can't be made, and the log then says why."""
    folder = files("hct_lightning.data.reading") / "cpp"
    library = compiled_library(folder, "jpeg.cpp", _HEADERS, "JPEGs are read slower than they could")
    if library:
        number, place = ctypes.c_int, ctypes.c_void_p
        library.hct_jpeg_takes.argtypes = (place, ctypes.c_size_t, *4 * (number,))
        library.hct_jpeg.argtypes = (*library.hct_jpeg_takes.argtypes, place, number, number)
    return library
