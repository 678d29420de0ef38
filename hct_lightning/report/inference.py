"""The figure of `benchmark=inference`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Bars of the medians with whiskers to the 99th percentile, a panel per shape."""
    rows = [row for row in rows if row["p50_s"]]
    shapes = list(dict.fromkeys((r["size"], r["batch"], r["device"]) for r in rows))
    tallest = max(sum((r["size"], r["batch"], r["device"]) == s for r in rows) for s in shapes)
    figure, axes = plt.subplots(
        1,
        len(shapes),
        figsize=(7 * len(shapes), 1.2 + 0.32 * tallest),
        squeeze=False,
        layout="constrained",
    )
    for axis, shape in zip(axes[0], shapes, strict=True):
        there = [r for r in rows if (r["size"], r["batch"], r["device"]) == shape]
        there.sort(key=lambda r: -r["p50_s"])
        medians = [1000 * r["p50_s"] for r in there]
        late = [1000 * (r["p99_s"] - r["p50_s"]) for r in there]
        plain = [r["side"].split()[0] in ("plain", "tuned") for r in there]
        axis.barh(
            [r["side"] for r in there],
            medians,
            xerr=[[0] * len(late), late],
            color=["#b0b0b0" if p else "#3b6ea8" for p in plain],
            ecolor="#404040",
        )
        axis.set_xlabel("ms a call, median and 99th percentile")
        axis.set_title("{} pixels, batch {}, {}".format(*shape), loc="left")
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
