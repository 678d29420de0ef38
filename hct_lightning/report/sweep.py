"""A sweep's points side by side: a table, and accuracy, speed and memory as a figure."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from hct_lightning.report import peers
from hct_lightning.runs.console import results
from hct_lightning.runs.files import write_whole
from hct_lightning.runs.record import accuracy_of, read_record

MEASURED = {
    "accuracy": "validation accuracy",
    "images_s": "training, images/s",
    "peak_gib": "peak memory, GiB",
}
MOST_OPTIONS = 6  # that a table or a legend has room for; a search has more


def report(folder: Path) -> bool:
    """Shows the points of a sweep; writes `sweep.json` and, where there is something to draw, `sweep.png`.

    Over several seeds likewise `seeds.json` and `seeds.png`, see `hct_lightning.report.peers`. Where points differ in
    more options than can be shown side by side, the files have them, and nothing is drawn.

    Returns:
        Whether all points have been completed.
    """
    points = read_points(folder)
    if not points:
        return True
    mark_pareto(points)
    write_whole(folder / "sweep.json", json.dumps(points, indent=2) + "\n")
    names = list(points[0]["options"])
    too_many = len(names) > MOST_OPTIONS
    names = [] if too_many else names
    score = peers.score_of(points)
    table = Table("", *names, score, "images/s", "peak memory", "", title="Sweep")
    table.title_justify = "left"
    for point in points:
        cells = (score, ".4f"), ("images_s", ".1f"), ("peak_gib", ".2f")
        shown = ["" if point[key] is None else format(point[key], form) for key, form in cells]
        ended = "Pareto front" if point["pareto"] else ""
        if point["status"] != "completed":
            ended = point["status"]
        options = (str(point["options"].get(name, "")) for name in names)
        table.add_row(point["name"], *options, *shown, ended)
    console = results()
    console.print(table)
    for point in points:
        if point["reason"]:
            console.print(f"{point['name']} {point['status']}: {point['reason']}", soft_wrap=True)
    if too_many:
        console.print(f"their options: {folder / 'sweep.json'}", soft_wrap=True)
    elif draw(points, folder / "sweep.png"):
        console.print(str(folder / "sweep.png"), soft_wrap=True)
    if rows := peers.over_seeds(points, folder):
        write_whole(folder / "seeds.json", json.dumps(rows, indent=2) + "\n")
        if not too_many:
            peers.show(rows)
            if peers.draw(rows, folder / "seeds.png"):
                console.print(str(folder / "seeds.png"), soft_wrap=True)
    return all(point["status"] == "completed" for point in points)


def read_points(folder: Path) -> list[dict[str, Any]]:
    """A dict per point, in the sweep's order, with the options that differ between points."""
    records = {path.parent: read_record(path) for path in folder.glob("*/run.json")}
    records = {path: record for path, record in records.items() if record.get("overrides") is not None}
    options = {path: dict(map(_pair, record["overrides"])) for path, record in records.items()}
    names = {name: None for each in options.values() for name in each}
    differ = [n for n in names if len({each.get(n) for each in options.values()}) > 1]
    points = []
    for path in sorted(records, key=lambda path: (len(path.name), path.name)):
        record = records[path]
        metrics, times = record.get("metrics") or {}, record.get("epoch_times") or []
        steady = times[1:] or times  # the first epoch warms up
        points.append(
            {
                "name": path.name,
                "options": {name: _number(options[path].get(name)) for name in differ},
                "status": record.get("status"),
                "reason": record.get("reason"),
                "accuracy": accuracy_of(record),
                "loss": metrics.get("val/loss"),
                "images_s": sum(t["images_s"] for t in steady) / len(steady) if steady else None,
                "peak_gib": metrics.get("memory/peak_gib"),
                **{key: (record.get("network") or {}).get(key) for key in ("parameters", "gmac")},
            }
        )
    return points


def _pair(override: str) -> tuple[str, str]:
    """An option and its value; `~option` has none."""
    name, _, value = override.lstrip("+").partition("=")
    return name, value


def _number(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def mark_pareto(points: list[dict[str, Any]]) -> None:
    """Sets `pareto` where no other point is at least as good in all that is measured, and better in one."""

    def gains(point: dict[str, Any]) -> tuple[float, float, float] | None:
        measured = [point[key] for key in MEASURED]
        return None if None in measured else (measured[0], measured[1], -measured[2])

    measured = [gains(point) for point in points]
    for point, mine in zip(points, measured, strict=True):
        point["pareto"] = mine is not None and not any(
            other != mine and all(o >= m for o, m in zip(other, mine, strict=True))
            for other in measured
            if other is not None
        )


def lines_of(points: Sequence[Mapping[str, Any]]) -> tuple[str, dict[str, list[Mapping[str, Any]]]] | None:
    """The first option that is a number, and by the values of the others the measured points in its order.

    None where no number differs between points.
    """
    points = [point for point in points if all(point[key] is not None for key in MEASURED)]
    numeric = [
        name
        for name in (points[0]["options"] if points else ())
        if all(isinstance(point["options"][name], int | float) for point in points)
        and len({point["options"][name] for point in points}) > 1
    ]
    if not numeric:
        return None
    x = numeric[0]
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for point in sorted(points, key=lambda point: point["options"][x]):
        rest = [f"{name} {value}" for name, value in point["options"].items() if name != x]
        lines.setdefault(", ".join(rest), []).append(point)
    return x, lines


def draw(points: Sequence[Mapping[str, Any]], file: Path) -> bool:
    """Each measure against the first option that is a number, a line per value of the others."""
    from matplotlib.figure import Figure  # slow to import, and whoever reads the points does not need it
    from matplotlib.ticker import ScalarFormatter

    found = lines_of(points)
    if not found:
        return False
    x, lines = found
    points = [point for line in lines.values() for point in line]
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    axes = figure.subplots(1, len(MEASURED))
    for axis, (key, label) in zip(axes, MEASURED.items(), strict=True):
        for name, line in lines.items():
            at = [point["options"][x] for point in line]
            axis.plot(at, [point[key] for point in line], "o-", label=name, zorder=2)
        front = [point for point in points if point["pareto"]]
        axis.scatter(
            [point["options"][x] for point in front],
            [point[key] for point in front],
            s=140,
            facecolors="none",
            edgecolors="black",
            label="Pareto front",
            zorder=3,
        )
        if min(point["options"][x] for point in points) > 0:
            axis.set_xscale("log", base=2)
        axis.set_xticks(sorted({point["options"][x] for point in points}))
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.set(xlabel=x, ylabel=label)
        axis.set_ylim(0, 1.1 * max(point[key] for point in points) or 1)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize="small")
    figure.savefig(file, dpi=110)
    return True
