"""Reading with libvips: what the geometry needs, decoded, cut and scaled in one streaming pass."""

import functools
import logging
import math
import os
from pathlib import Path
from types import ModuleType

import numpy as np

from hct_lightning.data.reading import geometry as geo
from hct_lightning.data.reading import jpeg

SHRINK = (8, 4, 2)  # that a JPEG decoder can do while decoding
WHOLE = 8  # times the pixels of the result that are decoded before they are cut and scaled; of more, libvips streams
_FORMATS = {"JPEG", "MPO", "PNG", "TIFF", "WEBP"}


@functools.cache
def libvips() -> ModuleType | None:
    """pyvips, or None where the extra `data` is not installed."""
    try:
        import pyvips
    except (ImportError, OSError):
        return None
    # Pillow reads what libvips can't, and says what is wrong: libvips writes nothing beside that.
    logging.getLogger("pyvips").setLevel(logging.CRITICAL + 1)
    pyvips.cache_set_max(0)  # a file may change between two readings
    pyvips.block_untrusted_set(True)  # formats such as SVG, which name other files, whatever a file is called
    return pyvips


def _takes(name: str) -> bool:
    """Whether pyvips finds a file by its name: it encodes it as UTF-8, and takes what stands in brackets for options."""
    return os.fsencode(name) == name.encode(errors="replace") and not name.endswith("]")


def read_with_vips(
    path: Path | str,
    file_format: str,
    channels: int,
    source: geo.Size,
    orientation: int,
    target: geo.Size,
    geometry: geo.Geometry,
    threads: int = 1,
) -> np.ndarray | None:
    """h w c uint8 of size `target`, or None where Pillow must read: it says what is wrong, too.

    Args:
        path: an 8-bit image, grey or RGB, possibly with transparency.
        file_format: Pillow's name of it.
        channels: 1 or 3.
        source: (height, width) of the upright image.
        orientation: of EXIF; libvips streams only what is upright.
        target: (height, width).
        geometry: chooses the region.
        threads: that decode a large JPEG.
    """
    vips = libvips()
    if vips is None or file_format not in _FORMATS or orientation != 1 or channels not in (1, 3):
        return None
    if not _takes(str(path)):
        return None
    region = geo.choose_region(source, target, geometry)
    inside = geo.inside(region, source)
    if inside != region or min(region.height / target[0], region.width / target[1]) < 1:
        return None
    shrink, decoded = 1, None
    if file_format in ("JPEG", "MPO"):
        shrink = shrink_factor(source, region, target)
        region = geo.Region(*(side // shrink for side in region))
        if math.prod(source) <= WHOLE * shrink**2 * math.prod(target):
            decoded = jpeg.decode(path, shrink, source, channels, threads)
    try:
        if decoded is not None:
            image = vips.Image.new_from_array(decoded)
        else:
            options = {"shrink": shrink} if shrink > 1 else {}
            image = vips.Image.new_from_file(str(path), access="sequential", fail_on="error", **options)
            if image.format != "uchar" or image.interpretation not in ("srgb", "b-w"):
                return None
            bands = 3 if image.bands >= 3 else 1
            if bands != channels:
                return None  # Pillow's own conversion
            image = image.extract_band(0, n=bands)
        image = image.crop(region.left, region.top, region.width, region.height)
        if (image.height, image.width) != target:
            image = image.resize(target[1] / region.width, vscale=target[0] / region.height, kernel="cubic")
        elif decoded is not None and decoded.shape[:2] == target:
            return decoded
        pixels = image.numpy()
    except vips.Error:
        return None
    return pixels.reshape(*target, -1)


def shrink_factor(source: geo.Size, region: geo.Region, target: geo.Size) -> int:
    """The largest reduction in decoding that leaves no less than the target.

    Only one that divides everything: a reduced image would else begin or end between two pixels.
    """
    scale = min(region.height / target[0], region.width / target[1])
    whole = (*source, *region)
    return next((f for f in SHRINK if f <= scale and not any(side % f for side in whole)), 1)
