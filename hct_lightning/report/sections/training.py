"""Curves, and where the time of an epoch goes."""

from collections.abc import Sequence

from hct_lightning.report.charts import COLOURS, Line, line_chart
from hct_lightning.report.files import RunFiles
from hct_lightning.report.page import Bar, Bars, Block, Charts, Note, Section, Table
from hct_lightning.report.sections.overview import command

PARTS = {"loading": "load_s", "training": "train_s", "waiting": "wait_s"}
# Chart: lines that are solid, and dashed ones.
CURVES = {
    "Loss": ("val/loss", "train/loss_epoch"),
    "Accuracy": ("val/accuracy", "train/accuracy"),
}


def curves(runs: Sequence[RunFiles]) -> Section:
    """Loss and accuracy by epoch, the learning rate by step; a colour a run, and no more runs than there are colours."""
    drawn = sorted(runs, key=lambda run: -(run.accuracy or 0))[:COLOURS] if len(runs) > COLOURS else runs
    charts = []
    for title, keys in CURVES.items():
        lines = [
            _line(run, key, i, dashed=bool(dashed), several=len(runs) > 1)
            for i, run in enumerate(drawn)
            for dashed, key in enumerate(keys)
        ]
        charts.append(line_chart(title, lines, x="epoch"))
    rates = [_line(run, "lr-", i, several=len(runs) > 1) for i, run in enumerate(drawn)]
    charts.append(line_chart("Learning rate", rates, x="step", from_zero=True))
    if not any(charts):
        text = "Curves: no epoch has been finished. To go on with the run:"
        return Section("Curves", [Note(text, command("fit", runs[0]), "missing")])
    some = [Note(f"The {COLOURS} most accurate of {len(runs)} runs.")] if len(drawn) < len(runs) else []
    return Section("Curves", [*some, Charts(charts)])


def _line(run: RunFiles, key: str, colour: int, *, dashed: bool = False, several: bool) -> Line:
    """Of the first metric that begins with `key`; named by the run where there are several, and by what it shows."""
    points = next((points for name, points in run.metrics.items() if name.startswith(key)), [])
    kind = "learning rate" if key.startswith("lr") else "training" if dashed else "validation"
    name = f"{run.name}, {kind}" if several else kind
    return Line(name, [x for x, _ in points], [y for _, y in points], colour=colour, dashed=dashed)


def times(runs: Sequence[RunFiles]) -> Section:
    """Seconds an epoch, and per image how many times as fast as the run on the fewest ranks."""
    timed = [run for run in runs if run.mean_s("run_s")]
    if not timed:
        text = "Times: no epoch has been finished."
        return Section("Time", [Note(text, level="missing")])
    slowest = min(timed, key=lambda run: run.ranks)
    rows = [row for run in timed for row in _time_rows(run, slowest if len(timed) > 1 else None)]
    header = ["per epoch", "ranks", *(f"{part}, s" for part in PARTS), "running, s", "images/s"]
    if len(timed) > 1:
        header += [f"{part}, times as fast" for part in ("loading", "training", "running")]
    blocks: list[Block] = [Table(header, rows)]
    shares = [
        Bar(run.name, [1000 * (run.per_image_s(part) or 0) for part in PARTS.values()], _per_image(run))
        for run in timed
    ]
    blocks.append(Bars("Time for each image, ms", shares, legend=list(PARTS)))
    if len(timed) > 1:
        blocks.append(
            Note(
                f"Times as fast: per image, against {slowest.name}. Training includes waiting for the gradients of "
                "other ranks there, as in the paper."
            )
        )
    return Section("Time", blocks)


def _per_image(run: RunFiles) -> str:
    return f"{1000 * (run.per_image_s('run_s') or 0):.1f} ms"


def _time_rows(run: RunFiles, against: RunFiles | None) -> list[list[str]]:
    """The mean of the ranks, and each rank where there are several."""

    def seconds(part: str) -> str:
        value = run.mean_s(part)
        return "" if value is None else f"{value:.2f}"

    row = [run.name, str(run.ranks), *map(seconds, (*PARTS.values(), "run_s")), f"{run.mean_s('images_s') or 0:.1f}"]
    faster = []
    if against:
        for parts in (("load_s",), ("train_s", "wait_s"), ("run_s",)):
            theirs, mine = against.per_image_s(*parts), run.per_image_s(*parts)
            faster.append(f"{theirs / mine:.2f}" if theirs and mine else "")
    rows = [row + faster]
    epochs = run.record.get("epoch_times") or []
    ranks = min((len(epoch["ranks"]) for epoch in epochs), default=0)  # none where a run ended as it was resumed
    for rank in range(ranks if run.ranks > 1 else 0):
        means = (
            sum(epoch["ranks"][rank][part] for epoch in epochs) / len(epochs) for part in (*PARTS.values(), "run_s")
        )
        rows.append([f"rank {rank}", "", *(f"{mean:.2f}" for mean in means), "", *[""] * len(faster)])
    return rows
