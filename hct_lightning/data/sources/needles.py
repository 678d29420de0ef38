"""Needles in haystacks: large grey images, where one place of 64 pixels decides the class.

The ground is dark and cloudy. One bright square somewhere has fine stripes, `across` (one above the other) or
`along` (side by side); all else is drawn alike for both classes. The stripes repeat every three pixels, so an image
that is reduced to a third of its height and width has none left: each of its pixels is the mean of whole stripes.
The bright square stays. Horizontal and vertical flips keep the class, a quarter turn changes it.
"""

import math

import numpy as np
from PIL import Image

from hct_lightning.data.catalogue import Catalogue
from hct_lightning.data.sources.drawn import Drawing, drawn

CLASSES = ("across", "along")
PLACE = 64  # px a side of the place that decides
PERIOD = 3  # px
STRIPES = 160, 80  # mean and amplitude of their brightness
GROUND = 16, 96  # the least and the greatest brightness of the ground, about
CELL = 96  # px in which the ground changes


def ground(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A dark and cloudy ground, height width uint8."""
    cells = math.ceil(height / CELL), math.ceil(width / CELL)
    image = Image.fromarray(rng.integers(*GROUND, cells, np.uint8))
    return np.array(image.resize((width, height), Image.Resampling.BICUBIC, (0, 0, width / CELL, height / CELL)))


def stripes(rng: np.random.Generator, *, along: bool) -> np.ndarray:
    """A bright square of stripes, side by side or one above the other, PLACE PLACE uint8."""
    mean, amplitude = STRIPES
    wave = mean + amplitude * np.cos(2 * np.pi * (np.arange(PLACE) / PERIOD + rng.uniform()))
    square = np.broadcast_to(wave.round().astype(np.uint8), (PLACE, PLACE))
    return square if along else square.T


def draw(seed: int, index: int, size: int) -> np.ndarray:
    """Image `index` of series `seed`: size size uint8."""
    rng = np.random.default_rng((seed, index))
    image = ground(rng, size, size)
    top, left = rng.integers(0, size - PLACE + 1, 2)
    along = CLASSES[index % len(CLASSES)] == "along"
    image[top : top + PLACE, left : left + PLACE] = stripes(rng, along=along)
    return image


NEEDLES = Drawing(
    draw,
    CLASSES,
    version=1,
    smallest=128,
    ending="png",
    options={"format": "png", "compress_level": 1},
    bytes_per_pixel=0.2,
)


def needles(root: str, *, scene_size: int, scene_seed: int, train: int, valid: int) -> Catalogue:
    """Images of two classes, drawn once and kept as grey PNG files under `root`.

    Arguments and errors are those of `drawn`.
    """
    return drawn("needles", NEEDLES, root, size=scene_size, seed=scene_seed, train=train, valid=valid)
