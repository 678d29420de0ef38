"""Images that are read by region, never as a whole.

libvips (the extra `data`) reads the tiles of a TIFF, of a pyramid its largest level, as they are asked for. JPEG, PNG
and WebP can't be entered in the middle: libvips decodes them once, into memory up to 100 MB and else into a temporary
file of 3 bytes a pixel (TMPDIR says where). A `.npy` file is mapped.

Legend: h height, w width, c channels.
"""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.image import UnreadableImageError
from hct_lightning.data.reading.vips import libvips
from hct_lightning.data.reading.window import Window, to_uint8


class Regions:
    """An array or memory map as an image.

    Args:
        values: h w or h w c, of bytes or of the numbers that `window` is for.
        channels: 1 or 3, converted where the array has the other; else as many as the array has.
        window: as `Decoding` has it; floats need one, for no region knows the range of the whole.

    Raises:
        ValueError: when the array is no such image.
    """

    def __init__(self, values: Any, channels: int, window: Window | None) -> None:
        bands = values.shape[2] if len(values.shape) == 3 else 1
        if len(values.shape) not in (2, 3) or (bands != channels and {bands, channels} != {1, 3}):
            raise ValueError(f"it has the shape {tuple(values.shape)} where data.channels={channels}")
        if values.dtype.kind == "f" and window is None:
            raise ValueError("of floats that are read by region the range has to be given: data.window=[low,high]")
        self._values, self._window = values, window
        self.shape = (*values.shape[:2], channels)

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """The pixels of a region, h w c uint8."""
        values = to_uint8(np.ascontiguousarray(self._values[y0:y1, x0:x1]), self._window)
        values = values.reshape(y1 - y0, x1 - x0, -1)
        if values.shape[2] == self.shape[2]:
            return values
        if values.shape[2] == 1:
            return np.repeat(values, 3, axis=2)
        return np.array(Image.fromarray(values).convert("L"))[..., None]


class _Vips:
    """An image of libvips, indexed like an array."""

    def __init__(self, image: Any) -> None:
        self._image = image
        self.shape = (image.height, image.width, image.bands)
        self.dtype = np.dtype({"uchar": "u1", "char": "i1", "ushort": "u2", "short": "i2"}.get(image.format, "f4"))

    def __getitem__(self, place: tuple[slice, slice]) -> np.ndarray:
        rows, columns = place
        size = columns.stop - columns.start, rows.stop - rows.start
        pixels = self._image.crop(columns.start, rows.start, *size).numpy()
        return pixels.reshape(size[1], size[0], -1)


def open_regions(path: Path | str, decoding: Decoding) -> Regions:
    """A file that is read by region, at its own size, decoded as `decoding` says.

    Raises:
        UnreadableImageError: naming the file and the reason.
    """
    try:
        regions = Regions(_values(path, decoding), decoding.channels, decoding.window)
    except (OSError, ValueError) as error:
        raise UnreadableImageError(f"{path}: {error}") from error
    height, width, _ = regions.shape
    if height * width > decoding.max_pixels:
        raise UnreadableImageError(
            f"{path}: {width}x{height} pixels are more than data.max_pixels={decoding.max_pixels}; "
            "raise it if the image is genuine"
        )
    return regions


def _values(path: Path | str, decoding: Decoding) -> Any:
    if Path(path).suffix == ".npy":
        return np.load(path, mmap_mode="r", allow_pickle=False)
    vips = libvips()
    if vips is None:
        raise ValueError("reading by region takes libvips: pip install 'hct-lightning[data]'")
    if not Path(path).is_file():
        raise ValueError("there is no such file")
    try:
        image = vips.Image.new_from_file(str(path), access="random", fail_on="error").autorot()
        if image.interpretation == "cmyk":
            image = image.colourspace("srgb")
        elif decoding.srgb and image.get_typeof("icc-profile-data"):
            image = image.icc_transform("srgb", embedded=True)
        transparent = image.bands in (2, 4) and image.bands != decoding.channels
        return _Vips(image.extract_band(0, n=image.bands - 1) if transparent else image)
    except vips.Error as error:
        raise ValueError(f"libvips can't read it: {str(error).splitlines()[0]}") from error
