"""Images in folders: a folder a class."""

import os
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

from hct_lightning.data.catalogue import (
    Catalogue,
    label_by_class,
    resolve_root,
    side_named,
    some,
    split_by_class,
)
from hct_lightning.data.reading.image import SUFFIXES, is_image


def folder(root: str | None, *, valid_fraction: float, split_seed: int) -> Catalogue:
    """A tree with a folder a class, or `train/` and at will `valid/` and `test/` with such a tree each.

    Args:
        root: the top of the tree.
        valid_fraction: of a tree without `valid/`, the part of each class that validates, at least
            one image; a class with a single image goes to training.
        split_seed: of that split; not the run's seed, so that runs with other seeds validate on the same images.

    The three have any of the names that `side_named` knows.

    Raises:
        ValueError: for an empty tree or class, two folders of one side, or a class that training lacks.
    """
    top = resolve_root(root)
    if not top.is_dir():
        raise ValueError(f"data.root={root} is a file; give a folder, or use data=csv")
    source, sides = f"folder {top}", _sides(top)
    tree = sides.get("train", top)
    if "valid" in sides:
        found = two_trees(source, tree, sides["valid"])
    else:
        train, valid, notes = split_by_class(_tree(tree), valid_fraction, split_seed, partial(name_below, tree))
        if sides:
            notes.append(f"no folder valid beside {tree.name}: {100 * valid_fraction:g} % of its images validate")
            if others := [folder.name for folder in _folders(top) if not side_named(folder.name)]:
                notes.append(f"passed over, for {tree.name} has the classes: {some(others)}")
        found = _catalogue(source, train, valid, notes)
    return _with_test(found, tree, sides["test"]) if "test" in sides else found


def two_trees(source: str, train: Path, valid: Path) -> Catalogue:
    """A tree with a folder a class to train on, and one to validate on.

    Raises:
        ValueError: for an empty tree or class, or a class of `valid` that `train` lacks.
    """
    train_images = _tree(train)
    valid_images = _tree_beside(train, valid, train_images)
    notes = [f"{name} has no validation image" for name in train_images if name not in valid_images]
    return _catalogue(source, train_images, valid_images, notes)


def _catalogue(source: str, train: dict[str, list[str]], valid: dict[str, list[str]], notes: list[str]) -> Catalogue:
    classes = tuple(sorted(train))
    return Catalogue(source, classes, label_by_class(train, classes), label_by_class(valid, classes), tuple(notes))


def _with_test(found: Catalogue, train: Path, test: Path) -> Catalogue:
    """With the tree `test`, unless its images have no classes, as those of a competition."""
    if not _folders(test):
        return replace(found, notes=(*found.notes, f"{test.name} has no class folders: it is left out"))
    return replace(found, test=label_by_class(_tree_beside(train, test, found.classes), found.classes))


def _sides(top: Path) -> dict[str, Path]:
    """The folders of `top` that are sides of a split; none when it has the classes.

    A class may be called train: it is one when it holds images itself, or nothing, and no other side is there.
    """
    sides: dict[str, list[Path]] = {}
    for folder in _folders(top):
        if name := side_named(folder.name):
            sides.setdefault(name, []).append(folder)
    if "train" not in sides or (len(sides) == 1 and not _has_classes(sides["train"][0])):
        return {}
    for name, folders in sides.items():
        if len(folders) > 1:
            raise ValueError(f"{top} has {some([f.name for f in folders])}, which mean {name} alike; leave one")
    return {name: only for name, (only,) in sides.items()}


def _has_classes(folder: Path) -> bool:
    return bool(_folders(folder)) and not any(is_image(path) and path.is_file() for path in folder.iterdir())


def _folders(root: Path) -> list[Path]:
    """Those that aren't hidden, and no runs and stores, sorted."""
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".") and not _is_ours(p))


def _tree_beside(train: Path, root: Path, classes: Iterable[str]) -> dict[str, list[str]]:
    """Images by class of the tree `root`, which has none but the classes of `train`."""
    images = _tree(root)
    if unknown := sorted(images.keys() - set(classes)):
        raise ValueError(
            f"{root} has classes that {train} lacks: {', '.join(unknown)}; "
            "add training images of them, or remove their folders"
        )
    return images


def _tree(root: Path) -> dict[str, list[str]]:
    """Images by class of a tree with a folder a class.

    Raises:
        ValueError: when there are no class folders, or one of them holds no image.
    """
    folders = _folders(root)
    if not folders:
        raise ValueError(f"{root} has no class folders; put the images of each class into a folder")
    images = {folder.name: images_below(folder) for folder in folders}
    for folder in folders:  # of runs, where they are started beside the classes
        if not images[folder.name] and any(map(_is_ours, folder.glob("**/"))):
            del images[folder.name]
    empty = [name for name, files in images.items() if not files]
    if empty:
        raise ValueError(
            f"{root}: no image in {', '.join(empty)} (looked for {', '.join(SUFFIXES)}); "
            "add images or remove the folder"
        )
    return images


def images_below(folder: Path) -> list[str]:
    """The images of a folder and those below it, sorted, but for hidden ones such as .ipynb_checkpoints, which hold copies.

    Links are followed, into each folder once and never back to one above. The folders of runs and stores are passed over.
    """
    top = folder.resolve()
    found, entered = [], {top, *top.parents}
    for parent, folders, names in os.walk(folder, followlinks=True):
        there = {name: Path(parent, name).resolve() for name in sorted(folders) if not name.startswith(".")}
        folders.clear()
        if Path(parent) != folder and _is_ours(Path(parent)):
            continue
        for name, place in there.items():
            if place not in entered:
                entered.add(place)
                folders.append(name)
        found += [str(file) for name in names if is_image(file := Path(parent, name))]
    return sorted(found)


def _is_ours(folder: Path) -> bool:
    """Whether a folder is a run's or a store, which hold copies of images and pictures of them."""
    return (folder / ".hydra").is_dir() or (folder / "store.json").is_file()


def name_below(top: Path, path: str) -> str:
    """What an image is called wherever `top` lies."""
    return Path(path).relative_to(top).as_posix()
