"""Where images and labels come from: a folder tree, LIU4K, a CSV file, drawn scenes.

A source is a function that gives a `Catalogue`. It reads names and labels, no pixels.
"""

import csv
import fcntl
import io
import logging
import multiprocessing
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from hct_lightning.data import scenes as drawing
from hct_lightning.data.images import SUFFIXES, is_image
from hct_lightning.runtime import cpu_count

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Images and labels in step: `labels[i]` is the class index of the file `paths[i]`."""

    paths: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class Catalogue:
    """What a source holds.

    Args:
        source: a line that says which data this is.
        classes: names, sorted; a label is an index into them.
        train: the training split.
        valid: the validation split.
        notes: what a user should know about the split.
    """

    source: str
    classes: tuple[str, ...]
    train: Split
    valid: Split
    notes: tuple[str, ...] = ()


def _root(root: str | None, option: str = "data.root") -> Path:
    """The folder or file that `option` names.

    Raises:
        ValueError: when it isn't given. FileNotFoundError: when it isn't there.
    """
    if not root:
        raise ValueError(f"{option} is not set; give {option}=<path of your images>")
    path = Path(root).expanduser().resolve()
    if not path.exists():
        raise FileNotFoundError(f"{option}={root}: there is no {path}")
    return path


def _tree(root: Path) -> dict[str, list[str]]:
    """Images by class of a tree with a folder a class.

    Raises:
        ValueError: when there are no class folders, or one of them holds no image.
    """
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise ValueError(f"{root} has no class folders; put the images of each class into a folder")
    images = {
        p.name: sorted(
            str(f) for f in p.rglob("*") if is_image(f) and not _hidden(f.relative_to(p))
        )
        for p in folders
    }
    empty = [name for name, files in images.items() if not files]
    if empty:
        raise ValueError(
            f"{root}: no image in {', '.join(empty)} (looked for {', '.join(SUFFIXES)}); "
            "add images or remove the folder"
        )
    return images


def _hidden(path: Path) -> bool:
    """Inside a folder such as .ipynb_checkpoints, which holds copies."""
    return any(part.startswith(".") for part in path.parts)


def _label(images: dict[str, list[str]], classes: Iterable[str]) -> Split:
    pairs = [(path, i) for i, name in enumerate(classes) for path in images.get(name, [])]
    return Split([path for path, _ in pairs], [label for _, label in pairs])


def folder(root: str | None, *, valid_fraction: float = 0.2, split_seed: int = 0) -> Catalogue:
    """A tree with a folder a class, or `train/` and `valid/` (or `val/`) with such a tree each.

    Args:
        root: the top of the tree.
        valid_fraction: of a tree without `valid/`, the part of each class that validates, at least
            one image; a class with a single image goes to training.
        split_seed: of that split; apart from the run's seed, so that runs compare on the same images.

    Raises:
        ValueError: for an empty tree or class, or a class of `valid/` that training lacks.
    """
    top = _root(root)
    if not top.is_dir():
        raise ValueError(f"data.root={root} is a file; give a folder, or use data=csv")
    valid = next((top / name for name in ("valid", "val") if (top / name).is_dir()), None)
    if (top / "train").is_dir() and valid:
        train_images, valid_images = _tree(top / "train"), _tree(valid)
        unknown = sorted(valid_images.keys() - train_images.keys())
        if unknown:
            raise ValueError(
                f"{valid} has classes that {top / 'train'} lacks: {', '.join(unknown)}; "
                "add training images of them, or remove their folders"
            )
        notes = [
            f"{name} has no validation image" for name in train_images if name not in valid_images
        ]
    else:
        train_images, valid_images, notes = _split(_tree(top), valid_fraction, split_seed)
    classes = tuple(sorted(train_images))
    return Catalogue(
        f"folder {top}", classes, _label(train_images, classes), _label(valid_images, classes),
        tuple(notes),
    )  # fmt: skip


def _split(
    images: dict[str, list[str]], fraction: float, seed: int
) -> tuple[dict[str, list[str]], dict[str, list[str]], list[str]]:
    """Each class apart, at random, so that both sides have the same proportions."""
    if not 0 < fraction < 1:
        raise ValueError(f"data.valid_fraction={fraction}: give a fraction between 0 and 1")
    rng = np.random.default_rng(seed)
    train, valid, notes = {}, {}, []
    for name, files in sorted(images.items()):
        count = min(len(files) - 1, max(1, round(fraction * len(files))))
        chosen = set(rng.permutation(len(files))[:count].tolist())
        train[name] = [path for i, path in enumerate(files) if i not in chosen]
        valid[name] = [path for i, path in enumerate(files) if i in chosen]
        if not chosen:
            notes.append(f"{name} has one image: it goes to training, none validates")
    return train, valid, notes


def liu4k(root: str | None) -> Catalogue:
    """LIU4K: `train/` and `valid/` with a folder a class (Animal, Building, Mountain, Street).

    Raises:
        ValueError: when the folders are missing.
    """
    top = _root(root)
    for name in ("train", "valid"):
        if not (top / name).is_dir():
            raise ValueError(
                f"data.root={root}: there is no {top / name}; LIU4K is expected as train/<class>/ "
                "and valid/<class>/ (the README says how to obtain it)"
            )
    found = folder(root)
    return Catalogue(f"LIU4K {top}", found.classes, found.train, found.valid, found.notes)


def table(root: str | None, *, valid_fraction: float = 0.2, split_seed: int = 0) -> Catalogue:
    """A CSV file with the columns `path` and `label`, and optionally `split` and `group`.

    Args:
        root: the CSV file; relative paths in it are relative to it.
        valid_fraction: without a `split` column, the part that validates.
        split_seed: of that split.

    `split` holds train or valid (or val). Images of one `group`, a patient say, never stand on
    both sides.

    Raises:
        ValueError: for missing columns, empty cells, an unknown split, a group on both sides, or
            a label that training lacks.
        FileNotFoundError: for images that aren't there.
    """
    file = _root(root)
    if file.is_dir():
        raise ValueError(f"data.root={root} is a folder; give the CSV file, or use data=folder")
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not a CSV file in UTF-8: {error}; save it as one") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    columns = reader.fieldnames or []
    if missing := {"path", "label"} - set(columns):
        raise ValueError(
            f"{file} lacks the column {' and '.join(sorted(missing))}; it has {columns}, "
            "separated by commas"
        )
    rows = []
    for cells in reader:
        row = {key: (value or "").strip() for key, value in cells.items() if key}
        if not row["path"] or not row["label"]:
            raise ValueError(f"{file}, line {reader.line_num}: path or label is empty")
        row["path"] = str((file.parent / row["path"]).resolve())
        if "split" in columns:
            row["split"] = _side(row["split"], file, reader.line_num)
        rows.append(row)
    if not rows:
        raise ValueError(f"{file} has no rows")
    if absent := [row["path"] for row in rows if not Path(row["path"]).is_file()]:
        raise FileNotFoundError(
            f"{file} names {len(absent)} files that aren't there: {_some(absent)}; relative paths "
            f"start at {file.parent}"
        )

    if "split" in columns:
        sides, notes = [row["split"] for row in rows], []
    else:
        sides, notes = _grouped_split(rows, valid_fraction, split_seed)
    if "group" in columns:
        on = defaultdict(set)
        for row, side in zip(rows, sides, strict=True):
            if row["group"]:
                on[row["group"]].add(side)
        if both := sorted(group for group, seen in on.items() if len(seen) > 1):
            raise ValueError(
                f"{file}: groups on both sides of the split: {_some(both)}; give each group one split"
            )
    classes = tuple(sorted({row["label"] for row in rows}))
    splits = {}
    for name in ("train", "valid"):
        images = defaultdict(list)
        for row, side in zip(rows, sides, strict=True):
            if side == name:
                images[row["label"]].append(row["path"])
        splits[name] = _label(images, classes)
        if absent := [c for c in classes if not images[c]]:
            if name == "train":
                raise ValueError(
                    f"{file}: no training image of {_some(absent)}; add some, remove these rows, or "
                    "without a split column choose another data.split_seed"
                )
            notes.append(f"no image validates: {', '.join(absent)}")
    return Catalogue(f"table {file}", classes, splits["train"], splits["valid"], tuple(notes))


def _side(split: str, file: Path, line: int) -> str:
    sides = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid"}
    if split.lower() not in sides:
        raise ValueError(f"{file}, line {line}: split={split!r}; use train or valid")
    return sides[split.lower()]


def _grouped_split(
    rows: list[dict[str, str]], fraction: float, seed: int
) -> tuple[list[str], list[str]]:
    """Splits whole groups, stratified by each group's commonest label."""
    members = defaultdict(list)
    for i, row in enumerate(rows):
        # An image without a group is a group of its own.
        members[row.get("group") or f"\0{i}"].append(i)
    by_label = defaultdict(list)
    for group, indices in members.items():
        commonest = Counter(sorted(rows[i]["label"] for i in indices)).most_common(1)[0][0]
        by_label[commonest].append(group)
    _, valid, notes = _split(by_label, fraction, seed)
    validating = {group for groups in valid.values() for group in groups}
    sides = ["train"] * len(rows)
    for group in validating:
        for i in members[group]:
            sides[i] = "valid"
    return sides, [note.replace("one image", "one image or group") for note in notes]


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def scenes(
    root: str, *, scene_size: int = 1024, scene_seed: int = 0, train: int = 400, valid: int = 400
) -> Catalogue:
    """Procedural images of four classes, drawn once and kept as JPEG files (quality 95, full colour) under `root`.

    Args:
        root: holds a folder for each version, size and seed of the drawing.
        scene_size: pixels a side.
        scene_seed: image i is drawn from (scene_seed, i).
        train: number of training images, i from 0.
        valid: number of validation images, i from 1,000,000, so that either can grow.
    """
    size, seed = scene_size, scene_seed
    if size < 128:
        raise ValueError(f"data.scene_size={size}: scenes are drawn at 128 pixels or more")
    top = Path(root).expanduser().resolve() / f"v{drawing.VERSION}-{size}px-seed{seed}"
    splits, missing = {}, []
    for name, first, count in (("train", 0, train), ("valid", 1_000_000, valid)):
        indices = range(first, first + count)
        labels = [drawing.label(i) for i in indices]
        paths = [
            top / name / drawing.CLASSES[y] / f"{i}.jpg"
            for i, y in zip(indices, labels, strict=True)
        ]
        splits[name] = Split([str(path) for path in paths], labels)
        missing += [
            (seed, i, size, path)
            for i, path in zip(indices, paths, strict=True)
            if not path.exists()
        ]
    if missing:
        _draw_missing(top, missing)
    return Catalogue(
        f"scenes (drawn, {size} px, seed {seed}) {top}",
        drawing.CLASSES,
        splits["train"],
        splits["valid"],
    )


def _draw_missing(top: Path, jobs: list[tuple[int, int, int, Path]]) -> None:
    for folder_ in {path.parent for *_, path in jobs}:
        folder_.mkdir(parents=True, exist_ok=True)
    with (top / ".lock").open("w") as lock:
        # Other ranks wait here, and then find the images drawn. Not flock: workers would inherit it.
        fcntl.lockf(lock, fcntl.LOCK_EX)
        jobs = [job for job in jobs if not job[-1].exists()]
        if not jobs:
            return
        log.info("drawing %d scenes in %s (once)", len(jobs), top)
        with ProcessPoolExecutor(cpu_count(), initializer=_end_with_parent) as pool:
            done = pool.map(_draw, jobs, chunksize=4)
            console = Console(stderr=True)
            for _ in track(
                done, "drawing scenes", len(jobs), console=console, disable=not console.is_terminal
            ):
                pass


def _end_with_parent() -> None:
    """In a worker: without this it would wait for ever when the run is killed."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _draw(job: tuple[int, int, int, Path]) -> None:
    seed, index, size, path = job
    temporary = path.with_suffix(".tmp")
    Image.fromarray(drawing.draw(seed, index, size)).save(
        temporary, "jpeg", quality=95, subsampling=0
    )
    temporary.replace(path)
