"""Images in a table: a CSV file with paths and labels."""

import csv
import io
import os
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hct_lightning.data.catalogue import (
    SIDES,
    Catalogue,
    Split,
    resolve_root,
    side_named,
    some,
    split_by_class,
)

OWN = ("path", "label", "split")  # columns with a meaning; the others are tags
ONE_OF_EACH = ("label", "split", "group")  # columns in which all rows of an image agree
T = TypeVar("T")
Row = dict[str, str]  # a line of the table, by column


def table(root: str | None, *, valid_fraction: float, split_seed: int) -> Catalogue:
    """A CSV file with the columns `path` and `label`, and optionally `split`, `group` and others.

    Args:
        root: the CSV file; relative paths in it are relative to it.
        valid_fraction: without a `split` column, the part that validates.
        split_seed: of that split.

    `split` holds train, valid (or val) or test. Images of one `group`, a patient say, never stand on
    two sides; nor does an image that several rows name. That column and others are kept with the images, as their tags.

    Raises:
        ValueError: for missing columns, empty cells, an unknown split, a group on two sides, an image whose rows
            contradict each other, or a label that training lacks.
        FileNotFoundError: for images that aren't there.
    """
    file = resolve_root(root)
    if file.is_dir():
        raise ValueError(f"data.root={root} is a folder; give the CSV file, or use data=folder")
    (rows, names), notes = read_rows(file), []
    if "split" not in rows[0]:
        sides, notes = _grouped_split(rows, names, valid_fraction, split_seed)
        rows = [row | {"split": side} for row, side in zip(rows, sides, strict=True)]
    return from_rows(f"table {file}", rows, notes)


def read_rows(file: Path) -> tuple[list[Row], list[str]]:
    """The lines of a table, with absolute paths and the splits' own names; and what each image is called: see `_name`.

    Raises:
        ValueError: for missing columns, empty cells, cells beside the columns, an unknown split, or an image with
            two labels, splits or groups.
        FileNotFoundError: for images that aren't there.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not a CSV file in UTF-8: {error}; save it as one") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    columns = _checked(lambda: reader.fieldnames or [], reader, file)
    if twice := sorted(name for name, count in Counter(columns).items() if name and count > 1):
        raise ValueError(f"{file} has the column {some(twice)} twice; leave one, or name them differently")
    if missing := {"path", "label"} - set(columns):
        raise ValueError(
            f"{file} lacks the column {' and '.join(sorted(missing))}; it has {columns}, separated by commas"
        )
    rows, names = [], []
    first: dict[str, tuple[int, Row]] = {}  # line and row in which a file is named first
    while cells := _checked(lambda: next(reader, None), reader, file):
        if any(cells.pop(None, ())):  # spreadsheets leave commas behind
            raise ValueError(
                f"{file}, line {reader.line_num}: it has more cells than the header; put one with a comma in quotes"
            )
        row = {key: (value or "").strip() for key, value in cells.items() if key}
        if not row["path"] or not row["label"]:
            raise ValueError(f"{file}, line {reader.line_num}: path or label is empty")
        names.append(_name(row["path"], file.parent))
        row["path"] = str((file.parent / row["path"]).resolve())
        if "split" in columns:
            row["split"] = _side(row["split"], file, reader.line_num)
        line, before = first.setdefault(row["path"], (reader.line_num, row))
        for column in ONE_OF_EACH:
            if row.get(column) != before.get(column):
                raise ValueError(
                    f"{file}, line {reader.line_num}: {names[-1]} has {column}={row[column]!r} here and "
                    f"{before[column]!r} in line {line}; leave one"
                )
        rows.append(row)
    if not rows:
        raise ValueError(f"{file} has no rows")
    if absent := [row["path"] for row in rows if not Path(row["path"]).is_file()]:
        raise FileNotFoundError(
            f"{file} names {len(absent)} files that aren't there: {some(absent)}; relative paths start at {file.parent}"
        )
    return rows, names


def _name(path: str, folder: Path) -> str:
    """What an image is called wherever the table and its images lie: as the table says, but from its folder on."""
    whole = Path(os.path.normpath(folder / path))
    name = whole.relative_to(folder) if whole.is_relative_to(folder) else Path(os.path.normpath(path))
    return name.as_posix()


def _checked(read: Callable[[], T], reader: csv.DictReader, file: Path) -> T:
    """What is read; raises a ValueError that names the line that is no CSV."""
    try:
        return read()
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.line_num}: {error}; save it as comma-separated values") from error


def from_rows(source: str, rows: list[Row], notes: list[str]) -> Catalogue:
    """The catalogue `source` of rows that have a split.

    Raises:
        ValueError: for a group on two sides, or a label that training lacks.
    """
    on = defaultdict(set)
    for row in rows:
        on[row.get("group")].add(row["split"])
    if both := sorted(group for group, seen in on.items() if group and len(seen) > 1):
        raise ValueError(f"{source}: groups on both sides of the split: {some(both)}; give each group one split")
    classes = tuple(sorted({row["label"] for row in rows}))
    train, valid, test = (_split([row for row in rows if row["split"] == side], classes) for side in SIDES)
    trained, validated = set(train.labels), set(valid.labels)
    if absent := [name for i, name in enumerate(classes) if i not in trained]:
        raise ValueError(
            f"{source}: no training image of {some(absent)}; add some, remove these rows, or "
            "without a split column choose another data.split_seed"
        )
    if absent := [name for i, name in enumerate(classes) if i not in validated]:
        notes = [*notes, f"no image validates: {', '.join(absent)}"]
    return Catalogue(source, classes, train, valid, tuple(notes), test=test)


def _split(rows: list[Row], classes: tuple[str, ...]) -> Split:
    """The rows as images, by class."""
    rows = sorted(rows, key=lambda row: row["label"])
    tags = {name: [row[name] for row in rows] for name in (rows[0] if rows else ()) if name not in OWN}
    return Split([row["path"] for row in rows], [classes.index(row["label"]) for row in rows], tags)


def _side(split: str, file: Path, line: int) -> str:
    found = side_named(split)
    if not found:
        raise ValueError(f"{file}, line {line}: split={split!r}; use train, valid or test")
    return found


def _grouped_split(rows: list[Row], names: list[str], fraction: float, seed: int) -> tuple[list[str], list[str]]:
    """Splits whole groups, stratified by each group's commonest label."""
    members, called = defaultdict(list), {}
    for i, (row, name) in enumerate(zip(rows, names, strict=True)):
        # An image without a group is a group of its own, in however many rows and by whatever names.
        group = row.get("group") or f"\0{row['path']}"
        name = row.get("group") or f"\0{name}"
        members[group].append(i)
        called[group] = min(name, called.get(group, name))
    by_label = defaultdict(list)
    for group, indices in members.items():
        commonest = Counter(sorted(rows[i]["label"] for i in indices)).most_common(1)[0][0]
        by_label[commonest].append(group)
    _, valid, notes = split_by_class(by_label, fraction, seed, called.__getitem__)
    validating = {group for groups in valid.values() for group in groups}
    sides = ["train"] * len(rows)
    for group in validating:
        for i in members[group]:
            sides[i] = "valid"
    return sides, [note.replace("one image", "one image or group") for note in notes]
