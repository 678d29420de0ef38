"""The points of a sweep side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

from hct_lightning.report.charts import Line, line_chart
from hct_lightning.report.page import Block, Charts, Note, Section, Table
from hct_lightning.report.sweep import MEASURED, lines_of


def sweep(points: Sequence[Mapping[str, Any]]) -> Section:
    """Options, accuracy, speed and memory of each point, and the three against the first option that is a number.

    Args:
        points: as `read_points` gives them, with `pareto` set.
    """
    names = list(points[0]["options"])
    header = ["point", *names, *MEASURED.values(), ""]
    rows = []
    for point in points:
        ended = "Pareto front" if point["pareto"] else ""
        if point["status"] != "completed":
            ended = ": ".join(filter(None, [point["status"] or "not begun", point["reason"]]))
        options = [str(point["options"].get(name, "")) for name in names]
        rows.append([point["name"], *options, *(point[key] for key in MEASURED), ended])
    blocks: list[Block] = [Table(header, rows)]
    if found := lines_of(points):
        x, lines = found
        charts = []
        for key, label in MEASURED.items():
            drawn = [
                Line(
                    name or label,
                    [point["options"][x] for point in line],
                    [point[key] for point in line],
                    i,
                    ringed=[n for n, point in enumerate(line) if point["pareto"]],
                )
                for i, (name, line) in enumerate(lines.items())
            ]
            charts.append(line_chart(label[0].upper() + label[1:], drawn, x=x, from_zero=True))
        blocks += [Charts(charts), Note("Rings mark the Pareto front: the points that no other beats in everything.")]
    return Section("Sweep", blocks)
