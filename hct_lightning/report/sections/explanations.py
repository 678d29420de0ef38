"""Where the network looks: the overlays and receptive fields of `task=explain`."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hct_lightning.report.files import RunFiles
from hct_lightning.report.page import Block, Note, Picture, Pictures, Section, Table
from hct_lightning.report.sections.overview import command

SHOWN = 8  # images of a run


def explanations(runs: Sequence[RunFiles]) -> Section:
    """Overlays of the first images, how alike they are to those of random weights, and receptive fields."""
    title = "Where the network looks"
    if not any(run.explanations for run in runs):
        return Section(
            title, [Note("Maps over images:", command("explain", runs[0], "explain.input=<images>"), "missing")]
        )
    blocks: list[Block] = []
    for run in runs:
        if run.explanations and len(runs) > 1:
            blocks.append(Note(run.name, level="heading"))
        if images := [row for row in run.explanations.get("images", []) if row.get("maps")]:
            blocks += _overlays(run.folder / "explain", images)
        if fields := run.explanations.get("receptive_field"):
            blocks += _fields(run.folder / "explain" / "receptive_field.jpg", fields)
    return Section(title, blocks)


def _overlays(folder: Path, images: Sequence[Mapping[str, Any]]) -> list[Block]:
    blocks: list[Block] = []
    rows = []
    for row in images[:SHOWN]:
        name = Path(row["path"]).name
        found = [picture for method, about in row["maps"].items() for picture in _pictures(folder, method, about)]
        found = [picture for picture in found if _is_of(folder, picture.file)]
        said = f"{name}: {row['class']} {row['probability']:.1%}, maps for {row['target']}"
        blocks += [Pictures(said, found, whole=True)] if found else []
        for method, about in row["maps"].items():
            rows.append([name, method, about["correlation_with_random"]])
    caption = "Rank correlation with the map of random weights: a good method's is near 0"
    if any(row[-1] is not None for row in rows):
        blocks.append(Table(["image", "method", "correlation"], rows, caption))
    return blocks


def _pictures(folder: Path, method: str, about: Mapping[str, Any]) -> Iterator[Picture]:
    """The overlay of a method, and of an image that was read by region the places that matter most."""
    yield Picture(folder / about["jpg"], method)
    for i, place in enumerate(about.get("places", []), start=1):
        yield Picture(folder / place["jpg"], f"{method}, place {i}")


def _is_of(folder: Path, file: Path) -> bool:
    """Whether it is there, and lies where explaining puts it: a folder of others may name any file."""
    return file.is_file() and file.resolve().is_relative_to(folder.resolve())


def _fields(figure: Path, fields: Sequence[Mapping[str, Any]]) -> list[Block]:
    caption = (
        "Effective receptive field: how far gradients of the central position reach, as a share of the shorter side"
    )
    rows = [[row["network"], row["weights"], row["half_side_50"], row["half_side_95"]] for row in fields]
    pictures = [Pictures("", [Picture(figure, "")], whole=True)] if figure.is_file() else []
    return [*pictures, Table(["network", "weights", "half within", "95 % within"], rows, caption)]
