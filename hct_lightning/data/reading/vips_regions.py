"""Files that libvips reads by region, as arrays: `image[rows, columns]`.

The tiles of a TIFF, of a pyramid its largest level, are read as they are asked for. What can't be entered in the middle
(JPEG, PNG, a TIFF in strips) is decoded from top to bottom, and again from the top for what lies above. Only an image
that its EXIF orientation turns is decoded as a whole, to memory up to 100 MB and else to a temporary file.

What libvips would give other pixels of than `read_image` does is refused.
"""

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hct_lightning.data.reading import tiff
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.vips import libvips

Place = tuple[slice, slice]
_DTYPES = {
    **{"uchar": "u1", "char": "i1", "ushort": "u2", "short": "i2", "uint": "u4", "int": "i4"},
    **{"float": "f4", "double": "f8", "complex": "c8", "dpcomplex": "c16"},
}
_TURNED_BY_XMP = re.compile(rb'tiff:Orientation(="|>)[2-8]')  # as Pillow looks for it


class Tiles:
    """An image of libvips that can be entered anywhere."""

    def __init__(self, image: Any) -> None:
        self._image = image
        self.shape = (image.height, image.width, image.bands)
        self.dtype = np.dtype(_DTYPES[image.format])

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
        self.dtype = np.dtype(_DTYPES[self._image.format])
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
        source = _source(_opened(path)) if remote else _file(path)
        return vips.Image.new_from_source(source, "", access=access, fail_on="error")

    def prepared(access: str) -> Any:
        image = begin(access).autorot()
        if loader.startswith("pngload") and image.bands > 1:
            image = image.msb()  # of 16-bit colour the upper byte is read
        if decoding.srgb and image.format == "uchar" and image.get_typeof("icc-profile-data"):
            image = image.icc_transform("srgb", embedded=True)
        transparent = image.bands in (2, 4) and image.bands != decoding.channels
        return image.extract_band(0, n=image.bands - 1) if transparent else image

    try:
        head = begin("sequential")
        turned = head.get_typeof("orientation") and head.get("orientation") != 1
        loader = head.get("vips-loader") if head.get_typeof("vips-loader") else ""
        in_tiles = bool(head.get_typeof("tile-width"))
        _check(head, loader, turned=bool(turned))
        if loader.startswith("tiffload"):
            with _opened(path) if remote else open(path, "rb") as file:
                tiff.check_regions(file)
        if not turned and not in_tiles and loader.startswith(("jpegload", "pngload", "tiffload")):
            return Strips(lambda: prepared("sequential"))
        return Tiles(prepared("random"))
    except vips.Error as error:
        raise ValueError(f"libvips can't read it: {str(error).splitlines()[0]}") from error


def _check(head: Any, loader: str, *, turned: bool) -> None:
    """Raises ValueError for an image of which libvips gives other pixels than `read_image`."""
    if head.interpretation == "cmyk":
        raise ValueError("it is CMYK, which can't be read by region; save it as RGB")
    if not turned and head.get_typeof("xmp-data") and _TURNED_BY_XMP.search(head.get("xmp-data")):
        raise ValueError("its orientation is in its XMP alone, which can't be read by region; save it upright")
    as_stored = loader.startswith("tiffload") or (loader.startswith("pngload") and head.bands != 2)
    if head.format != "uchar" and not as_stored:
        raise ValueError("it has more than 8 bits, which can't be read by region of this kind of file; save it as TIFF")


def _file(path: str) -> Any:
    """A file by its descriptor: in a name libvips takes what stands in brackets for options."""
    vips = libvips()
    assert vips
    with open(path, "rb") as file:
        return vips.Source.new_from_descriptor(file.fileno())  # it has one of its own


def _opened(url: str) -> Any:
    """What lies at a url, as a file that is read as it is asked for."""
    import fsspec  # it takes a while

    try:
        return fsspec.core.url_to_fs(url)[0].open(url, "rb")
    except ImportError as error:
        raise ValueError(f"{error}; pip install it") from error
    except Exception as error:  # every protocol has its own
        raise ValueError(f"it can't be opened: {str(error) or type(error).__name__}") from error


def _source(file: Any) -> Any:
    vips = libvips()
    assert vips
    source = vips.SourceCustom()
    source.on_read(file.read)
    source.on_seek(lambda offset, whence: file.seek(offset, whence))
    return source
