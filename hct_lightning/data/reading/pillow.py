"""Opening files with Pillow, without its warnings and its own limit on pixels."""

import ctypes
import functools
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image


@contextmanager
def open_image(path: Path | str) -> Iterator[Image.Image]:
    """The image in a file, its head alone read so far."""
    Image.MAX_IMAGE_PIXELS = None  # ours is an option, and the same for every decoder
    # What is wrong with a file is said once, by the error that names it.
    warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
    logging.getLogger("PIL").setLevel(logging.CRITICAL + 1)
    _silence_libtiff()
    # Not by name: Pillow would map uncompressed files into memory, and scramble turned TIFFs.
    with open(path, "rb") as file, Image.open(file) as image:
        yield image


@functools.cache
def _silence_libtiff() -> None:
    """Below Pillow it writes to standard error by itself what Pillow then raises, and Pillow has no option for that."""
    try:
        mapped = Path("/proc/self/maps").read_text().splitlines()
    except OSError:  # off Linux its lines stay
        return
    for library in {line.split(maxsplit=5)[5] for line in mapped if "/libtiff" in line}:
        loaded = ctypes.CDLL(library)
        loaded.TIFFSetErrorHandler(None)
        loaded.TIFFSetWarningHandler(None)
