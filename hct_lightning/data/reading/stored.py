"""Which integers some files hold: whether the default window fits them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hct_lightning.data.reading import dicom, slides, tiff
from hct_lightning.data.reading.image import probe
from hct_lightning.data.reading.pillow import open_image
from hct_lightning.data.reading.window import range_of

_MOST = 2**28  # values of an image; those of larger ones are not looked at
_USED = 1 / 4  # of the default window: below that the image is dark, and has few levels


def window_for(paths: Sequence[str], max_pixels: int) -> tuple[tuple[int, int], str] | None:
    """A window for integers that the default does not fit, and a note that says so.

    Args:
        paths: of a few images, for each is decoded whole. Those that can't be are for others to name.
        max_pixels: see `read_image`.

    Returns:
        None where the images are of bytes or of floats, or use a good part of the default window and no more.
    """
    looked = [found for path in paths if (found := _range(path, max_pixels))]
    if not looked:
        return None
    low, high = min(found[0] for found in looked), max(found[1] for found in looked)
    lowest, highest = max(found[2] for found in looked)
    fits = lowest <= low and high <= highest
    if low == high or (fits and (highest == 255 or high - low >= _USED * (highest - lowest))):
        return None
    return (low, high), f"values are {low}..{high} of {lowest}..{highest}: give data.window=[{low},{high}]"


def _range(path: str, max_pixels: int) -> tuple[int, int, tuple[int, int]] | None:
    """The least and the largest value of a file, and the default window; None unless it has integers beside bytes."""
    try:
        bands, height, width = probe(path, max_pixels=max_pixels)
        values = _integers(path) if bands * height * width <= _MOST else None
    except Exception:  # damaged files make decoders raise everything there is
        return None
    if values is None or values.dtype == np.uint8 or values.dtype.kind not in "iu" or not values.size:
        return None
    return int(values.min()), int(values.max()), range_of(values.dtype)


def _integers(path: Path | str) -> np.ndarray | None:
    """What is stored; None where no window counts, or the file says its own."""
    if slides.is_slide(path) or dicom.is_dicom(path):
        return None
    if tiff.is_multi_band(path):
        return tiff.read_values(path)
    with open_image(path) as image:
        return np.asarray(image) if image.mode.startswith("I") else None
