"""Whole slides as scanners write them, read by openslide (the extra `wsi`)."""

from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

SUFFIXES = (".bif", ".mrxs", ".ndpi", ".scn", ".svs", ".svslide", ".vms", ".vmu")


def is_slide(path: Path | str) -> bool:
    return str(path).lower().endswith(SUFFIXES)


class Slide:
    """The largest level of a slide, as an array of RGB bytes: `slide[rows, columns]`.

    Where the scanner says which part holds the tissue, it is that part. What was not scanned is white, or the slide's
    own background.

    Raises:
        ValueError: saying what is wrong with the file, or missing here.
    """

    dtype = np.dtype("u1")

    def __init__(self, path: Path | str) -> None:
        openslide = _openslide()
        if not Path(path).is_file():
            raise ValueError("there is no such file")
        try:
            self._slide = openslide.OpenSlide(str(path))
        except openslide.OpenSlideError as error:
            raise ValueError(f"openslide can't read it: {error}") from error
        width, height = self._slide.dimensions
        said = {name: self._slide.properties.get(f"openslide.bounds-{name}") for name in ("x", "y", "width", "height")}
        self._left, self._top = int(said["x"] or 0), int(said["y"] or 0)
        self.shape = (int(said["height"] or height), int(said["width"] or width), 3)
        self._background = f"#{self._slide.properties.get('openslide.background-color', 'ffffff')}"

    def __getitem__(self, place: tuple[slice, slice]) -> np.ndarray:
        rows, columns = place
        size = columns.stop - columns.start, rows.stop - rows.start
        region = self._slide.read_region((self._left + columns.start, self._top + rows.start), 0, size)
        pixels = Image.new("RGB", size, self._background)
        pixels.paste(region, mask=region.getchannel("A"))
        return np.array(pixels)


def _openslide() -> ModuleType:
    try:
        import openslide
    except (ImportError, OSError) as error:
        raise ValueError("whole slides take openslide: pip install 'hct-lightning[wsi]'") from error
    return openslide
