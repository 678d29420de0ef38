"""Ranks of different speed: what an update of the weights takes with each scheme, measured and simulated.

Whole training runs of CPU ranks, in turn. How long a gradient takes is set by `delays`, by sleeping: so it is to be
longer than the computation, and then one core is enough for all ranks.
"""

import csv
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hct_lightning.parallel.delays import Delays
from hct_lightning.parallel.schemes import Scheme
from hct_lightning.parallel.simulator import simulate


class Curve(NamedTuple):
    """A run, epoch by epoch.

    seconds: of training until its end.
    update_s: per update.
    staleness: updates, on average.
    loss: of training, over the epoch.
    error: of validation, as a fraction.
    """

    seconds: list[float]
    update_s: list[float]
    staleness: list[float]
    loss: list[float]
    error: list[float]


def benchmark(
    *,
    ranks: int,
    k: int,
    schemes: Sequence[str],
    delays: Mapping[str, Any],
    resolution: int,
    batch_size: int,
    images: int,
    steps: int,
    epochs: int,
    rounds: int,
    options: Sequence[str],
    figure: str | None,
) -> dict[str, Any]:
    """Measures, and gives for each scheme `<scheme>_vs_synchronous`, the ratio of the times per update, and `agreement`.

    The latter is the largest deviation of a measured time per update from the simulated one, as a fraction of it.

    Args:
        ranks: workers.
        k: gradients in an update.
        schemes: that are compared with synchronous training.
        delays: options of `Delays`.
        resolution: of the scenes, pixels.
        batch_size: images of a gradient.
        images: of validation.
        steps: updates an epoch.
        epochs: of a run.
        rounds: runs of each scheme.
        options: further ones of the runs.
        figure: a file to draw loss and error against time to; None: none.
    """
    sides = {"synchronous": Scheme("k_sync", ranks)} | {name: Scheme(name, k) for name in schemes}
    options = (
        f"data.resolution={resolution}",
        f"data.scene_size={resolution}",
        f"data.train={steps * batch_size * ranks}",
        f"data.valid={images}",
        f"data.batch_size={batch_size}",
        f"trainer.max_epochs={epochs}",
        f"trainer.devices={ranks}",
        f"gradients.delays={_as_override(delays)}",
        *options,
    )
    runs: dict[str, list[Curve]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as home:
        for turn in range(rounds):
            for name, scheme in sides.items():
                given = (f"gradients={scheme.name}", f"gradients.k={scheme.k}", f"seed={turn}")
                runs[name].append(train(Path(home) / f"{name}-{turn}", (*given, *options)))
    rows = []
    for name, scheme in sides.items():
        real = statistics.mean(s for curve in runs[name] for s in curve.update_s)
        found = simulate(scheme, ranks, Delays(**delays), updates=max(1, 4000 // steps) * steps, epoch=steps)
        rows.append(
            {
                "scheme": name,
                "k": scheme.k,
                "update_s": real,
                "simulated_s": found.update_s,
                "deviation": real / found.update_s - 1,
                "staleness": statistics.mean(s for curve in runs[name] for s in curve.staleness),
                "simulated_staleness": found.staleness,
                "loss": statistics.mean(curve.loss[-1] for curve in runs[name]),
                "error": statistics.mean(curve.error[-1] for curve in runs[name]),
            }
        )
    if figure:
        draw(runs, Path(figure))
    ratios = {f"{row['scheme']}_vs_synchronous": row["update_s"] / rows[0]["update_s"] for row in rows[1:]}
    return {
        "title": f"{ranks} ranks, {delays}",
        "ratios": {**ratios, "agreement": max(abs(row["deviation"]) for row in rows)},
        "rows": rows,
        "curves": {name: [curve._asdict() for curve in found] for name, found in runs.items()},
    }


def _as_override(value: Any) -> str:
    """Plain containers in Hydra's own grammar."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_as_override(item)}" for key, item in value.items()) + "}"
    return "null" if value is None else str(value)


def train(run: Path, options: Sequence[str]) -> Curve:
    """A training run in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "hct_lightning",
        "recipe=plain",
        "trainer.accelerator=cpu",
        "runtime.threads=1",
        "data.num_workers=0",
        "export=[]",
        "fit.report=false",
        f"hydra.run.dir={run}",
        *options,
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with (run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("gradients/update_s")]
    seconds = [epoch["run_s"] for epoch in json.loads((run / "run.json").read_text())["epoch_times"]]
    return Curve(
        seconds=[sum(seconds[: i + 1]) for i in range(len(seconds))],
        update_s=[float(row["gradients/update_s"]) for row in rows],
        staleness=[float(row["gradients/staleness"]) for row in rows],
        loss=[float(row["train/loss_epoch"]) for row in rows],
        error=[1 - float(row["val/accuracy"]) for row in rows],
    )


def draw(runs: Mapping[str, Sequence[Curve]], file: Path) -> None:
    """Loss and error against the seconds of training, a line a scheme: the mean of its runs."""
    from matplotlib.figure import Figure  # slow to import

    drawn = Figure(figsize=(10, 4), layout="constrained")
    left, right = drawn.subplots(1, 2)
    for name, curves in runs.items():
        mean = [[statistics.mean(values) for values in zip(*lines, strict=True)] for lines in zip(*curves, strict=True)]
        seconds, _, _, loss, error = mean
        left.plot(seconds, loss, "o-", markersize=3, label=name)
        right.plot(seconds, error, "o-", markersize=3)
    for axis, label in ((left, "training loss"), (right, "validation error")):
        axis.set(xlabel="training (s)", ylabel=label)
        axis.grid(alpha=0.3)
    left.legend()
    drawn.savefig(file, dpi=110)
