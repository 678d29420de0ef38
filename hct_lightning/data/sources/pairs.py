"""Pairs: wide grey images, whose class is whether their two ends are alike.

At each end is a square of stripes as in needles.py, either way with the same probability. The class is `same` or
`different`, so neither square alone says anything, and nothing lies between them but the ground. A network that adds
up what is seen at single positions can't be right in more than three of the four cases, if it sees no position
from which both squares are visible. Flips keep the class.
"""

import numpy as np

from hct_lightning.data.catalogue import Catalogue
from hct_lightning.data.sources.drawn import drawn
from hct_lightning.data.sources.needles import NEEDLES, PLACE, ground, stripes

CLASSES = ("same", "different")
FLATNESS = 8  # width / height
ROOM = 50  # a square is within width / ROOM of its end


def draw(seed: int, index: int, size: int) -> np.ndarray:
    """Image `index` of series `seed`: (size / 8) size uint8."""
    rng = np.random.default_rng((seed, index))
    image = ground(rng, size // FLATNESS, size)
    first = bool(rng.integers(2))
    same = CLASSES[index % len(CLASSES)] == "same"
    inward = rng.integers(0, size // ROOM + 1, 2)
    for left, along in ((inward[0], first), (size - PLACE - inward[1], first == same)):
        top = rng.integers(0, len(image) - PLACE + 1)
        image[top : top + PLACE, left : left + PLACE] = stripes(rng, along=along)
    return image


PAIRS = NEEDLES._replace(
    draw=draw,
    classes=CLASSES,
    version=1,
    smallest=128 * FLATNESS,
    bytes_per_pixel=0.1 / FLATNESS,  # of size x size, of which an image has an eighth
)


def pairs(root: str, *, scene_size: int, scene_seed: int, train: int, valid: int) -> Catalogue:
    """Images of two classes, `scene_size` wide, drawn once and kept as grey PNG files under `root`.

    Arguments and errors are those of `drawn`.
    """
    return drawn("pairs", PAIRS, root, size=scene_size, seed=scene_seed, train=train, valid=valid)
