"""What people can look at of an image that is read by region: the whole reduced, and the places that matter most.

Legend: c channels, h height, w width.
"""

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hct_lightning.explain.maps import Map
from hct_lightning.models.tiles import Source

LONGEST = 2048  # px, of the longer side of a reduced image
SIDE = 512  # px of a place, about
BAND_BYTES = 2**24  # of pixels that are read at a time


class Place(NamedTuple):
    """A part of an image, and the map over it.

    rows, columns: of the image.
    found: the map's part, with the colours of the whole.
    """

    rows: slice
    columns: slice
    found: Map

    def read(self, source: Source) -> Tensor:
        """c h w uint8, its own pixels."""
        pixels = source.read(self.rows.start, self.rows.stop, self.columns.start, self.columns.stop)
        return torch.from_numpy(pixels).permute(2, 0, 1)


def reduced(source: Source) -> Tensor:
    """The image at a whole part of its height and width, by means of squares of pixels: c h w uint8."""
    height, width, channels = source.shape
    factor = -(-max(height, width) // LONGEST)
    step = factor * max(1, BAND_BYTES // (width * channels * factor))
    bands = []
    for top in range(0, height, step):
        pixels = source.read(top, min(height, top + step), 0, width)
        channel = [np.asarray(Image.fromarray(pixels[..., i]).reduce(factor)) for i in range(channels)]
        bands.append(np.stack(channel))
    return torch.from_numpy(np.concatenate(bands, axis=1))


def hottest(found: Map, size: tuple[int, int], count: int) -> list[Place]:
    """Places around the greatest values, the greatest first; they do not overlap.

    Args:
        found: a map of the image.
        size: the image's height and width.
        count: how many at most: fewer where nothing else speaks for the class.
    """
    left = found.values.clone()
    lengths = found.values.shape
    cells = [min(n, max(1, round(SIDE * n / pixels))) for n, pixels in zip(lengths, size, strict=True)]
    places: list[Place] = []
    while len(places) < count and left.max() > 0:
        middle = divmod(int(left.argmax()), lengths[1])
        rows, columns = (
            slice(start, start + some)
            for at, some, n in zip(middle, cells, lengths, strict=True)
            for start in [min(max(0, at - some // 2), n - some)]
        )
        inside = [
            slice(round(side.start * pixels / n), round(side.stop * pixels / n))
            for side, pixels, n in zip((rows, columns), size, lengths, strict=True)
        ]
        if left[rows, columns].isfinite().all():
            places.append(Place(inside[0], inside[1], found.part(rows, columns)))
            left[rows, columns] = -torch.inf
        else:  # too near to a place that is there already
            left[middle] = 0
    return places
