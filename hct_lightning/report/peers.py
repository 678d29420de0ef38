"""The points of a sweep over seeds side by side: each combination of the other options once, with an interval.

| key          | unit | of the seeds                                                              |
|--------------|------|---------------------------------------------------------------------------|
| accuracy     |      | mean of the best validation accuracies; None of task=pretrain              |
| loss         |      | mean of the last validation losses                                         |
| interval     |      | half of the 95 % interval of the accuracy, else of the loss, by Student's t; None for one seed |
| gmac         | 10^9 | multiply-adds for one image                                                |
| parameters   |      | of the network                                                             |
| peak_gib     | GiB  | the most memory in training, of any seed                                   |
| images_s     | 1/s  | mean, in training                                                          |
| time_ms      | ms   | mean, of one image with the fastest artifact                               |
"""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from hct_lightning.deploy.artifact import read_descriptions
from hct_lightning.runs.console import results

# The 97.5th percentile of Student's t by degrees of freedom, from 1.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def over_seeds(points: Sequence[Mapping[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """A row for each combination of the options but `seed`, of completed points; none where no seeds were swept over.

    Args:
        points: as `read_points` gives them.
        folder: of the sweep.
    """
    groups: dict[str, dict[Any, Mapping[str, Any]]] = {}  # by the other options as text, for a value may be a list
    for point in points:
        if "seed" in point["options"] and point["status"] == "completed":
            # The same options with the same seed are the same training, and count once.
            groups.setdefault(json.dumps(_others(point)), {}).setdefault(point["options"]["seed"], point)
    each = [list(group.values()) for group in groups.values()]
    return [_row(_others(group[0]), group, folder) for group in each]


def _others(point: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in point["options"].items() if name != "seed"}


def score_of(rows: Iterable[Mapping[str, Any]]) -> str:
    """What rows are compared by: their accuracy, or the validation loss where none has one, as of task=pretrain."""
    accurate = any(row["accuracy"] is not None for row in rows)
    return "accuracy" if accurate or all(row["loss"] is None for row in rows) else "loss"


def _row(options: dict[str, Any], points: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    def known(key: str) -> list[float]:
        return [point[key] for point in points if point.get(key) is not None]

    def mean(values: Sequence[float]) -> float | None:
        return statistics.fmean(values) if values else None

    accuracies, losses = known("accuracy"), known("loss")
    made = [read_descriptions(folder / point["name"] / "artifacts").values() for point in points]
    times = [min(about["metrics"]["time_ms"] for about in each) for each in made if each]
    return {
        "options": options,
        "seeds": len(points),
        "accuracy": mean(accuracies),
        "loss": mean(losses),
        "interval": half_interval(accuracies or losses),
        "gmac": mean(known("gmac")),
        "parameters": mean(known("parameters")),
        "peak_gib": max(known("peak_gib"), default=None),
        "images_s": mean(known("images_s")),
        "time_ms": mean(times),
    }


def half_interval(values: Sequence[float]) -> float | None:
    """Half of the 95 % interval of a mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    t = _T[min(len(values) - 1, len(_T)) - 1]
    return t * statistics.stdev(values) / len(values) ** 0.5


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """The table on standard output."""
    names, score = list(rows[0]["options"]), score_of(rows)
    table = Table(*names, "seeds", score, "GMAC", "M parameters", "peak memory", "images/s", "ms an image")
    table.title, table.title_justify = "Over seeds", "left"
    for row in rows:
        scored = "" if row[score] is None else f"{row[score]:.4f}"
        if scored and row["interval"] is not None:
            scored += f" ± {row['interval']:.4f}"
        figures = [
            "" if value is None else format(value, form)
            for value, form in (
                (row["gmac"], ".2f"),
                (row["parameters"] and row["parameters"] / 1e6, ".2f"),
                (row["peak_gib"], ".2f"),
                (row["images_s"], ".1f"),
                (row["time_ms"], ".1f"),
            )
        ]
        table.add_row(*(str(row["options"][name]) for name in names), str(row["seeds"]), scored, *figures)
    results().print(table)


def draw(rows: Sequence[Mapping[str, Any]], file: Path) -> bool:
    """Accuracy with its interval against multiply-adds, training and inference; whether there was something to draw."""
    from matplotlib.figure import Figure  # slow to import

    against = {"gmac": "GMAC an image", "images_s": "training, images/s", "time_ms": "inference, ms an image"}
    shown = {key: [row for row in rows if row[key] is not None and row["accuracy"] is not None] for key in against}
    if not any(shown.values()):
        return False
    figure = Figure(figsize=(12, 4), layout="constrained")
    for axis, (key, label) in zip(figure.subplots(1, len(against)), against.items(), strict=True):
        for row in shown[key]:
            name = ", ".join(str(value) for value in row["options"].values())
            axis.errorbar(row[key], row["accuracy"], yerr=row["interval"] or 0, fmt="o", capsize=3, label=name)
        axis.set(xlabel=label, ylabel="validation accuracy", xscale="log")
        axis.grid(alpha=0.3)
    next(axis for axis, rows in zip(figure.axes, shown.values(), strict=True) if rows).legend(fontsize="small")
    figure.savefig(file, dpi=110)
    return True
