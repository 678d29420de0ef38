"""Scenes, drawn when they are first asked for."""

from hct_lightning.data.catalogue import Catalogue
from hct_lightning.data.sources import drawing
from hct_lightning.data.sources.drawn import Drawing, drawn

SCENES = Drawing(
    drawing.draw,
    drawing.CLASSES,
    drawing.VERSION,
    smallest=128,
    ending="jpg",
    options={"format": "jpeg", "quality": 95, "subsampling": 0},
    bytes_per_pixel=0.6,
)


def scenes(root: str, *, scene_size: int, scene_seed: int, train: int, valid: int) -> Catalogue:
    """Procedural images of four classes, drawn once and kept as JPEG files (quality 95, full colour) under `root`.

    Arguments and errors are those of `drawn`.
    """
    return drawn("scenes", SCENES, root, size=scene_size, seed=scene_seed, train=train, valid=valid)
