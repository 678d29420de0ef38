"""What a source gives: images and labels, divided into what trains, what validates and what is kept for a test."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.geometry import Size
from hct_lightning.data.reading.readers import Reader

SIDES = ("train", "valid", "test")
_OTHER_NAMES = {"training": "train", "val": "valid", "validation": "valid", "testing": "test"}


def side_named(name: str) -> str | None:
    """Which of `SIDES` a table or a folder means by a name, in whatever letters; None for any other name."""
    name = name.lower()
    return _OTHER_NAMES.get(name, name if name in SIDES else None)


@dataclass(frozen=True)
class Split:
    """Images and what is known of them, in step: `labels[i]` is the class index of the file `paths[i]`.

    `tags` is what else a table says of each, by column: `tags["group"][i]`.
    """

    paths: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    tags: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)

    def at_most(self, count: int) -> "Split":
        """At most `count` images, evenly spaced by class, so that the classes keep their proportions."""
        if len(self) <= count:
            return self
        by_class = np.argsort(self.labels, kind="stable")
        return self.at(by_class[np.linspace(0, len(self) - 1, count).round().astype(int)].tolist())

    def at(self, chosen: Sequence[int]) -> "Split":
        """The images at these positions."""
        tags = {name: [values[i] for i in chosen] for name, values in self.tags.items()}
        return Split([self.paths[i] for i in chosen], [self.labels[i] for i in chosen], tags)

    def part(self, fraction: float) -> "Split":
        """About this part of each class, in whole groups (the tag `group`); an image without one is a group of its own.

        Always the same, whatever the run's seed. Every class keeps one group at least, and else no more than its part.
        """
        groups = self.tags.get("group") or [""] * len(self)
        members: dict[int, dict[tuple[str, str], list[int]]] = {}
        for i, (label, group, path) in enumerate(zip(self.labels, groups, self.paths, strict=True)):
            members.setdefault(label, {}).setdefault((group, "" if group else path), []).append(i)
        chosen: list[int] = []
        for of_class in members.values():
            wanted = fraction * sum(map(len, of_class.values()))
            in_order = [of_class[key] for key in sorted(of_class)]
            taken: list[int] = []
            for g in np.random.default_rng(0).permutation(len(in_order)):
                if not taken or len(taken) + len(in_order[g]) <= wanted:
                    taken += in_order[g]
            chosen += taken
        return self.at(sorted(chosen))

    def tags_of(self, i: int) -> dict[str, str]:
        """What is said of image i, by column."""
        return {name: values[i] for name, values in self.tags.items()}


class Original(NamedTuple):
    """The file that a prepared image was made of: its (height, width), and its SHA-256."""

    size: Size
    sha256: str


class Prepared(Protocol):
    """Images that were read before and lie ready: what a catalogue knows of a store.

    Attributes:
        decoding: how they were read.
    """

    decoding: Decoding

    def reader(self, wanted: Decoding) -> Reader:
        """Gives the images as `wanted` says, where that can be derived from what lies there."""
        ...

    def original(self, path: str) -> Original:
        """What the image at `path` was made of."""
        ...


@dataclass(frozen=True)
class Catalogue:
    """What a source holds.

    Args:
        source: a line that says which data this is.
        classes: names, sorted; a label is an index into them.
        train: the training split.
        valid: the validation split.
        test: what neither trains nor chooses anything; most sources have none.
        notes: what a user should know about the split.
        prepared: where the images lie ready to read; None when they are the original files.
    """

    source: str
    classes: tuple[str, ...]
    train: Split
    valid: Split
    notes: tuple[str, ...] = ()
    prepared: Prepared | None = None
    test: Split = field(default_factory=Split)

    @property
    def splits(self) -> dict[str, Split]:
        """By name, without those that are empty."""
        return {name: split for name in SIDES if len(split := getattr(self, name))}

    def at_most(self, count: int) -> "Catalogue":
        """At most `count` images of each split."""
        train, valid, test = (split.at_most(count) for split in (self.train, self.valid, self.test))
        return replace(self, train=train, valid=valid, test=test)

    def part_of_training(self, fraction: float) -> "Catalogue":
        """With this part of the training images: see `Split.part`."""
        return replace(self, train=self.train.part(fraction))


def resolve_root(root: str | None, option: str = "data.root") -> Path:
    """The folder or file that `option` names.

    Raises:
        ValueError: when it isn't given. FileNotFoundError: when it isn't there.
    """
    if not root:
        raise ValueError(f"{option} is not set; give {option}=<path of your images>")
    if "://" in root:
        raise ValueError(
            f"{option}={root}: of what lies elsewhere only a store is read, data=store; make one with "
            "task=prepare where the images are"
        )
    path = Path(root).expanduser().resolve()
    if not path.exists():
        raise FileNotFoundError(f"{option}={root}: there is no {path}")
    return path


def label_by_class(images: dict[str, list[str]], classes: Iterable[str]) -> Split:
    pairs = [(path, i) for i, name in enumerate(classes) for path in images.get(name, [])]
    return Split([path for path, _ in pairs], [label for _, label in pairs])


def split_by_class(
    images: dict[str, list[str]], fraction: float, seed: int, name: Callable[[str], str]
) -> tuple[dict[str, list[str]], dict[str, list[str]], list[str]]:
    """Each class apart, at random, so that both sides have the same proportions.

    A digest of seed and name draws, not the place in the list: one image more or less moves one other at most.

    Args:
        images: by class; or groups of them.
        fraction: of each class, what validates.
        seed: of the draw.
        name: says what an image is called wherever the data set lies: its path from the top, say.

    Returns:
        What trains and what validates, by class and in the given order, and notes.

    Raises:
        ValueError: for a fraction that is none.
    """
    if not isinstance(fraction, int | float) or not 0 < fraction < 1:
        raise ValueError(f"data.valid_fraction={fraction}: give a fraction between 0 and 1")

    def drawn(image: str) -> bytes:
        return hashlib.blake2b(f"{seed}\0{name(image)}".encode(errors="surrogateescape")).digest()

    train, valid, notes = {}, {}, []
    for cls, files in sorted(images.items()):
        count = min(len(files) - 1, max(1, round(fraction * len(files))))
        chosen = set(sorted(files, key=drawn)[:count])
        train[cls] = [path for path in files if path not in chosen]
        valid[cls] = [path for path in files if path in chosen]
        if not chosen:
            notes.append(f"{cls} has one image: it goes to training, none validates")
    return train, valid, notes


def some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
