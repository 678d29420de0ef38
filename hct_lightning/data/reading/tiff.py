"""TIFF files of many bands, of 16-bit and of float colours: what satellites send and Pillow can't read."""

import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from hct_lightning.data.reading.channels import to_channels
from hct_lightning.data.reading.pillow import open_image
from hct_lightning.data.reading.window import Window, to_uint8

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # TIFF and BigTIFF, of either byte order
_BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLES, _EXTRA, _FORMAT = 258, 262, 274, 277, 338, 339  # tags
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6  # photometric interpretations
_NAMES = {3: "palette", 5: "CMYK", 6: "YCbCr", 8: "CIELAB", 9: "CIELAB", 10: "CIELAB"}
_ALPHA = (1, 2)  # of the tag ExtraSamples, 1 where the colours are multiplied by it; 0 is any other band
_JPEG = 7  # of the tag Compression


def is_tiff(path: Path | str) -> bool:
    with open(path, "rb") as file:
        return file.read(4) in _MAGIC


def is_multi_band(path: Path | str) -> bool:
    """Whether it is a TIFF that Pillow can't read, or would read wrongly: with eight of its sixteen bits, say."""
    if not is_tiff(path):
        return False
    try:
        with open_image(path) as image:
            tags = getattr(image, "tag_v2", {})
            bits, unsigned = max(tags.get(_BITS, (1,))), set(tags.get(_FORMAT, (1,))) == {1}
            inverted = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
            if bits == 8 and tags.get(_FORMAT) == (2,):
                return True  # signed bytes, of which Pillow would read -1 as 255
            return bits > 8 and (tags.get(_SAMPLES, 1) > 1 or inverted or (bits > 16 and unsigned))
    except (UnidentifiedImageError, SyntaxError, KeyError, ValueError, TypeError):
        return True


def has_bands_beside_colours(image: Image.Image) -> bool:
    """Whether Pillow, which has opened it, would leave out bands of a TIFF that are no transparency."""
    tags = getattr(image, "tag_v2", {})
    return 0 in tags.get(_EXTRA, ()) and tags.get(_PHOTOMETRIC) in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)


def probe(path: Path | str) -> tuple[int, int, int]:
    """Bands without transparency, height and width, upright."""
    with _page(path) as page:
        height, width = page.imagelength, page.imagewidth
        if _orientation(page) in (5, 6, 7, 8):
            height, width = width, height
        return len(_bands(page)), height, width


def read(path: Path | str, channels: int, window: Window | None) -> np.ndarray:
    """h w channels uint8 of the first image, upright, without transparency.

    Raises:
        ValueError: when the file has another number of bands than `channels`, and is neither grey nor RGB; when
            it holds other colours, CMYK say.
    """
    with _page(path) as page:
        bands, kind = _bands(page), _kind(page)
        if page.photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB) and len(bands) <= 4:
            raise ValueError(f"it is {kind}; save it as RGB")
        if len(bands) != channels and (len(bands) not in (1, 3) or channels not in (1, 3)):
            raise ValueError(f"it is {kind} where data.channels={channels}")
        values = _values(page)
        orientation, inverted = _orientation(page), page.photometric == _WHITE_IS_ZERO
    pixels = to_uint8(np.ascontiguousarray(values), window)
    if inverted:
        pixels = 255 - pixels
    return to_channels(_upright(pixels, orientation), channels, kind)


def read_values(path: Path | str) -> np.ndarray:
    """h w bands of the first image, the numbers that are stored, without transparency."""
    with _page(path) as page:
        return _values(page)


def _values(page: Any) -> np.ndarray:
    values = page.asarray()
    if page.axes.startswith("S"):  # band after band
        values = np.moveaxis(values, 0, -1)
    if values.shape[:2] != (page.imagelength, page.imagewidth) or values.ndim > 3:
        raise ValueError(f"its pixels are laid out as {page.axes}; save each image in a file of its own")
    return values.reshape(*values.shape[:2], -1)[..., _bands(page)]


def check_regions(file: BinaryIO) -> None:
    """Raises ValueError for a TIFF of which libvips, which reads regions, gives other numbers or colours than `read`."""
    with _page(file) as page:
        jpeg = page.photometric == _YCBCR and page.compression == _JPEG  # the decoder makes it RGB
        if page.photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE) and not jpeg:
            raise ValueError(f"it is {_kind(page)}, which can't be read by region; save it as RGB")
        if page.photometric == _WHITE_IS_ZERO and page.bitspersample > 8:
            raise ValueError(f"it is {_kind(page)} whose zero is white, which can't be read by region; make it black")
        if 1 in page.extrasamples and page.bitspersample > 8:
            raise ValueError(f"it is {_kind(page)} multiplied into it, which can't be read by region; save it without")


def _bands(page: Any) -> list[int]:
    """Which of a page's samples are no transparency."""
    colours = page.samplesperpixel - len(page.extrasamples)
    return [i for i in range(page.samplesperpixel) if i < colours or page.extrasamples[i - colours] not in _ALPHA]


def _kind(page: Any) -> str:
    """What a page is, in words: `a 16-bit TIFF of 6 bands`."""
    bands = len(_bands(page))
    names = {1: "grey", 3: "RGB"} if page.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB) else {}
    colours = names.get(bands) or _NAMES.get(page.photometric) or f"{bands} bands"
    alpha = " with alpha" if bands < page.samplesperpixel else ""
    number = "float" if page.sampleformat == 3 else f"{page.bitspersample}-bit"
    return f"a {number} TIFF of {colours}{alpha}"


def _orientation(page: Any) -> int:
    """As in EXIF, 1 where there is none."""
    tag = page.tags.get(_ORIENTATION)
    return tag.value if tag else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """h w c, turned by EXIF's rules."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


@contextmanager
def _page(path: Path | str | BinaryIO) -> Iterator[Any]:
    try:
        import tifffile
    except ImportError as error:
        raise ValueError("a TIFF of this kind takes tifffile: pip install 'hct-lightning[data]'") from error
    # What is wrong with a file is said once, by the error that names it.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    try:
        with tifffile.TiffFile(path) as file:
            yield file.pages.first
    except (tifffile.TiffFileError, RuntimeError, struct.error, LookupError) as error:
        raise ValueError(f"not a TIFF that can be read: {error}") from error
