"""Images without labels, in a folder of any form."""

from functools import partial

from hct_lightning.data.catalogue import Catalogue, label_by_class, resolve_root, split_by_class
from hct_lightning.data.reading.image import SUFFIXES
from hct_lightning.data.sources.folder import images_below, name_below

NAME = "unlabelled"  # of the one class that they are said to have


def unlabelled(root: str | None, *, valid_fraction: float, split_seed: int) -> Catalogue:
    """Every image below a folder.

    Args:
        root: the folder.
        valid_fraction: the part on which is measured what is learned, at least one image.
        split_seed: of that split.

    Raises:
        ValueError: when there are fewer than two images.
    """
    top = resolve_root(root)
    if not top.is_dir():
        raise ValueError(f"data.root={root} is a file; give a folder of images")
    found = images_below(top)
    if len(found) < 2:
        raise ValueError(f"{top} holds {len(found)} image(s), of {', '.join(SUFFIXES)}; give a folder with more")
    train, valid, notes = split_by_class({NAME: found}, valid_fraction, split_seed, partial(name_below, top))
    classes = (NAME,)
    return Catalogue(
        f"images of {top}", classes, label_by_class(train, classes), label_by_class(valid, classes), tuple(notes)
    )
