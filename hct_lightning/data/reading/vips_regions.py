"""Files that libvips reads by region, as arrays: `image[rows, columns]`.

The tiles of a TIFF, of a pyramid its largest level, are read as they are asked for. What can't be entered in the middle
(JPEG, PNG, a TIFF in strips) is decoded from top to bottom, and again from the top for what lies above. Only an image
that its EXIF orientation turns is decoded as a whole, to memory up to 100 MB and else to a temporary file.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.vips import libvips

Place = tuple[slice, slice]
_DTYPES = {"uchar": "u1", "char": "i1", "ushort": "u2", "short": "i2"}


class Tiles:
    """An image of libvips that can be entered anywhere."""

    def __init__(self, image: Any) -> None:
        self._image = image
        self.shape = (image.height, image.width, image.bands)
        self.dtype = np.dtype(_DTYPES.get(image.format, "f4"))

    def __getitem__(self, place: Place) -> np.ndarray:
        rows, columns = place
        height, width = rows.stop - rows.start, columns.stop - columns.start
        return self._image.crop(columns.start, rows.start, width, height).numpy().reshape(height, width, -1)


class Strips:
    """An image that is decoded from top to bottom; the rows of the last region are kept.

    Args:
        begin: opens it anew.
    """

    def __init__(self, begin: Callable[[], Any]) -> None:
        self._begin = begin
        self._image = begin()
        self.shape = (self._image.height, self._image.width, self._image.bands)
        self.dtype = np.dtype(_DTYPES.get(self._image.format, "f4"))
        self._one_at_a_time = threading.Lock()
        self._start_over()

    def __getitem__(self, place: Place) -> np.ndarray:
        rows, columns = place
        with self._one_at_a_time:
            if rows.start < self._top:
                self._start_over()
            kept = self._rows[rows.start - self._top :]
            self._top, held = min(rows.start, self._top + len(self._rows)), len(kept)
            while (missing := rows.stop - self._top - held) > 0:
                if not held and (gap := rows.start - self._top) > 0:  # rows that nobody has asked for
                    step = min(gap, 1024)
                    self._fetch(self._top, step)
                    self._top += step
                    continue
                grown = np.empty((held + missing, *self.shape[1:]), self.dtype)
                grown[:held] = kept
                grown[held:] = self._fetch(self._top + held, missing)
                kept, held = grown, len(grown)
            self._rows = kept
            top = rows.start - self._top
            return kept[top : top + rows.stop - rows.start, columns].copy()

    def _fetch(self, top: int, rows: int) -> np.ndarray:
        pixels = self._region.fetch(0, top, self.shape[1], rows)
        return np.frombuffer(pixels, self.dtype).reshape(rows, *self.shape[1:])

    def _start_over(self) -> None:
        vips = libvips()
        assert vips
        self._image = self._begin()
        self._region = vips.Region.new(self._image)
        self._top, self._rows = 0, np.empty((0, *self.shape[1:]), self.dtype)


def open_with_vips(path: str, decoding: Decoding) -> Tiles | Strips:
    """A file, or what lies at a url that fsspec knows.

    Raises:
        ValueError: saying what is wrong with it, or missing here.
    """
    vips = libvips()
    if vips is None:
        raise ValueError("reading by region takes libvips: pip install 'hct-lightning[data]'")
    remote = "://" in path
    if not remote and not Path(path).is_file():
        raise ValueError("there is no such file")

    def begin(access: str) -> Any:
        source = _source(path) if remote else _file(path)
        return vips.Image.new_from_source(source, "", access=access, fail_on="error")

    def prepared(access: str) -> Any:
        image = begin(access).autorot()
        if image.interpretation == "cmyk":
            image = image.colourspace("srgb")
        elif decoding.srgb and image.get_typeof("icc-profile-data"):
            image = image.icc_transform("srgb", embedded=True)
        transparent = image.bands in (2, 4) and image.bands != decoding.channels
        return image.extract_band(0, n=image.bands - 1) if transparent else image

    try:
        head = begin("sequential")
        turned = head.get_typeof("orientation") and head.get("orientation") != 1
        loader = head.get("vips-loader") if head.get_typeof("vips-loader") else ""
        in_tiles = bool(head.get_typeof("tile-width"))
        if not turned and not in_tiles and loader.startswith(("jpegload", "pngload", "tiffload")):
            return Strips(lambda: prepared("sequential"))
        return Tiles(prepared("random"))
    except vips.Error as error:
        raise ValueError(f"libvips can't read it: {str(error).splitlines()[0]}") from error


def _file(path: str) -> Any:
    """A file by its descriptor: in a name libvips takes what stands in brackets for options."""
    vips = libvips()
    assert vips
    with open(path, "rb") as file:
        return vips.Source.new_from_descriptor(file.fileno())  # it has one of its own


def _source(url: str) -> Any:
    """What lies at a url, read as it is asked for."""
    import fsspec  # it takes a while

    vips = libvips()
    assert vips
    try:
        file = fsspec.core.url_to_fs(url)[0].open(url, "rb")
    except ImportError as error:
        raise ValueError(f"{error}; pip install it") from error
    except Exception as error:  # every protocol has its own
        raise ValueError(f"it can't be opened: {str(error) or type(error).__name__}") from error
    source = vips.SourceCustom()
    source.on_read(file.read)
    source.on_seek(lambda offset, whence: file.seek(offset, whence))
    return source
