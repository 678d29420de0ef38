"""TIFF files of many bands, of 16-bit and of float colours: what satellites send and Pillow can't read."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from hct_lightning.data.vips import libvips
from hct_lightning.data.window import Window, to_uint8

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
                samples = image.tag_v2.get(_SAMPLES, 1)
                return samples > 1 and max(image.tag_v2.get(_BITS, (1,))) > 8
        except (UnidentifiedImageError, SyntaxError, KeyError, ValueError):
            return True


def probe(path: Path | str) -> tuple[int, int, int]:
    """Bands, height and width."""
    image = _open(path)
    return image.bands, image.height, image.width


def read(path: Path | str, channels: int, window: Window | None) -> np.ndarray:
    """h w bands uint8.

    Raises:
        ValueError: when the file has another number of bands than `channels`.
    """
    image = _open(path)
    if image.bands != channels:
        raise ValueError(
            f"it has {image.bands} bands where data.channels={channels}; all images take the same"
        )
    return to_uint8(image.numpy().reshape(image.height, image.width, -1), window)


def _open(path: Path | str) -> Any:
    vips = libvips()
    if vips is None:
        raise ValueError("a TIFF of this kind takes libvips: pip install 'hct-lightning[data]'")
    try:
        return vips.Image.new_from_file(str(path), fail_on="error")
    except vips.Error as error:
        raise ValueError(" ".join(error.detail.split())) from error
