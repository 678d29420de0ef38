"""Images in a table: a CSV file with paths and labels."""

import csv
import io
from collections import Counter, defaultdict
from pathlib import Path

from hct_lightning.data.catalogue import (
    Catalogue,
    label_by_class,
    resolve_root,
    some,
    split_by_class,
)


def table(root: str | None, *, valid_fraction: float, split_seed: int) -> Catalogue:
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
    file = resolve_root(root)
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
            f"{file} lacks the column {' and '.join(sorted(missing))}; it has {columns}, separated by commas"
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
            f"{file} names {len(absent)} files that aren't there: {some(absent)}; relative paths start at {file.parent}"
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
            raise ValueError(f"{file}: groups on both sides of the split: {some(both)}; give each group one split")
    classes = tuple(sorted({row["label"] for row in rows}))
    splits = {}
    for name in ("train", "valid"):
        images = defaultdict(list)
        for row, side in zip(rows, sides, strict=True):
            if side == name:
                images[row["label"]].append(row["path"])
        splits[name] = label_by_class(images, classes)
        if absent := [c for c in classes if not images[c]]:
            if name == "train":
                raise ValueError(
                    f"{file}: no training image of {some(absent)}; add some, remove these rows, or "
                    "without a split column choose another data.split_seed"
                )
            notes.append(f"no image validates: {', '.join(absent)}")
    return Catalogue(f"table {file}", classes, splits["train"], splits["valid"], tuple(notes))


def _side(split: str, file: Path, line: int) -> str:
    sides = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid"}
    if split.lower() not in sides:
        raise ValueError(f"{file}, line {line}: split={split!r}; use train or valid")
    return sides[split.lower()]


def _grouped_split(rows: list[dict[str, str]], fraction: float, seed: int) -> tuple[list[str], list[str]]:
    """Splits whole groups, stratified by each group's commonest label."""
    members = defaultdict(list)
    for i, row in enumerate(rows):
        # An image without a group is a group of its own.
        members[row.get("group") or f"\0{i}"].append(i)
    by_label = defaultdict(list)
    for group, indices in members.items():
        commonest = Counter(sorted(rows[i]["label"] for i in indices)).most_common(1)[0][0]
        by_label[commonest].append(group)
    _, valid, notes = split_by_class(by_label, fraction, seed)
    validating = {group for groups in valid.values() for group in groups}
    sides = ["train"] * len(rows)
    for group in validating:
        for i in members[group]:
            sides[i] = "valid"
    return sides, [note.replace("one image", "one image or group") for note in notes]
