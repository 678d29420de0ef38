"""Images in folders: a folder a class."""

import os
from pathlib import Path

from hct_lightning.data.catalogue import (
    Catalogue,
    label_by_class,
    resolve_root,
    split_by_class,
)
from hct_lightning.data.reading.image import SUFFIXES, is_image


def folder(root: str | None, *, valid_fraction: float, split_seed: int) -> Catalogue:
    """A tree with a folder a class, or `train/` and `valid/` (or `val/`) with such a tree each.

    Args:
        root: the top of the tree.
        valid_fraction: of a tree without `valid/`, the part of each class that validates, at least
            one image; a class with a single image goes to training.
        split_seed: of that split; not the run's seed, so that runs with other seeds validate on the same images.

    Raises:
        ValueError: for an empty tree or class, or a class of `valid/` that training lacks.
    """
    top = resolve_root(root)
    if not top.is_dir():
        raise ValueError(f"data.root={root} is a file; give a folder, or use data=csv")
    valid = next((top / name for name in ("valid", "val") if (top / name).is_dir()), None)
    if (top / "train").is_dir() and valid:
        return two_trees(f"folder {top}", top / "train", valid)
    train_images, valid_images, notes = split_by_class(_tree(top), valid_fraction, split_seed)
    return _catalogue(f"folder {top}", train_images, valid_images, notes)


def two_trees(source: str, train: Path, valid: Path) -> Catalogue:
    """A tree with a folder a class to train on, and one to validate on.

    Raises:
        ValueError: for an empty tree or class, or a class of `valid` that `train` lacks.
    """
    train_images, valid_images = _tree(train), _tree(valid)
    if unknown := sorted(valid_images.keys() - train_images.keys()):
        raise ValueError(
            f"{valid} has classes that {train} lacks: {', '.join(unknown)}; "
            "add training images of them, or remove their folders"
        )
    notes = [f"{name} has no validation image" for name in train_images if name not in valid_images]
    return _catalogue(source, train_images, valid_images, notes)


def _catalogue(source: str, train: dict[str, list[str]], valid: dict[str, list[str]], notes: list[str]) -> Catalogue:
    classes = tuple(sorted(train))
    return Catalogue(source, classes, label_by_class(train, classes), label_by_class(valid, classes), tuple(notes))


def _tree(root: Path) -> dict[str, list[str]]:
    """Images by class of a tree with a folder a class.

    Raises:
        ValueError: when there are no class folders, or one of them holds no image.
    """
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise ValueError(f"{root} has no class folders; put the images of each class into a folder")
    images = {folder.name: images_below(folder) for folder in folders}
    empty = [name for name, files in images.items() if not files]
    if empty:
        raise ValueError(
            f"{root}: no image in {', '.join(empty)} (looked for {', '.join(SUFFIXES)}); "
            "add images or remove the folder"
        )
    return images


def images_below(folder: Path) -> list[str]:
    """The images of a folder and those below it, sorted, but for hidden ones such as .ipynb_checkpoints, which hold copies."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = (name for name in folders if not name.startswith("."))
        found += [str(file) for name in names if is_image(file := Path(parent, name))]
    return sorted(found)
