"""One's own runs laid over the paper's curves, tables and figures."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hct_lightning.report import paper
from hct_lightning.report.charts import Chart, Line, line_chart
from hct_lightning.report.files import RunFiles
from hct_lightning.report.page import Bar, Bars, Block, Charts, Note, Section, Table
from hct_lightning.report.sections.overview import command

PARTS = {"loading": ("load_s",), "training": ("train_s", "wait_s"), "running": ("run_s",)}
# Chart: the column of the paper's log, the key in metrics.csv.
LEARNING = {
    "Training loss": ("train_loss", "train/loss_epoch"),
    "Training accuracy": ("train_acc", "train/accuracy"),
    "Validation accuracy": ("val_acc", "val/accuracy"),
}
PAPER, PLAIN, OURS = "paper", "plain PyTorch here", "HCT-Lightning here"


def against_paper(runs: Sequence[RunFiles]) -> list[Section]:
    """Learning, time, inference and quantization."""
    return [learning(runs), times(runs), inference(runs), quantization(runs)]


def learning(runs: Sequence[RunFiles]) -> Section:
    """Losses and accuracies by epoch."""
    logs = paper.epochs()
    charts = []
    for title, (column, key) in LEARNING.items():
        theirs = {paper.NAMES[name]: log[column] for name, log in logs.items()}
        charts.append(_by_epoch(title, theirs, runs, lambda run, key=key: run.metrics.get(key, [])))
    text = (
        "The paper trained on 1600 photographs of LIU4K in four classes at 4000 px, and validated on 260: 30 epochs on one "
        "GPU, where validation accuracy is a mean over batches, and 80 on four. Each curve is shown over its whole training. "
        "Runs on other data differ in how hard that is, not only in how they train."
    )
    return Section("The paper: learning", [Note(text), Charts(charts)])


def times(runs: Sequence[RunFiles]) -> Section:
    """Loading, training and running: seconds for each image, and how many times as fast several devices are."""
    logs = paper.epochs()
    charts = []
    for part, columns in PARTS.items():
        theirs = {paper.NAMES[name]: [s / paper.IMAGES for s in log[columns[0]]] for name, log in logs.items()}
        title = f"{part.capitalize()}, s for each image"
        charts.append(_by_epoch(title, theirs, runs, lambda run, columns=columns: run.per_image(*columns)))
    note = (
        "Training includes waiting for the gradients of other ranks. The paper's loading was faster on four GPUs in "
        "good part because eight processes read instead of two."
    )
    return Section("The paper: time of an epoch", [Charts(charts), *_speed_up(runs), Note(note)])


def _speed_up(runs: Sequence[RunFiles]) -> list[Block]:
    """Of the paper's four devices over one, and of the runs on the most ranks over that on the fewest."""
    header = ["", *(f"{name}, s an epoch" for name in paper.NAMES.values()), "times as fast"]
    rows = [[part, f"{alone}", f"{four}", f"{alone / four:.2f}"] for part, (alone, four) in paper.EPOCH_S.items()]
    timed = sorted((run for run in runs if run.mean_s("run_s")), key=lambda run: run.ranks)
    if not timed or timed[0].ranks == timed[-1].ranks:
        return [Table(header, rows), Note("Give runs on one rank and on several, and they stand here side by side.")]
    one, several = timed[0], timed[-1]
    header += [f"{run.name}, {_ranks(run)}, ms an image" for run in (one, several)] + ["times as fast per image"]
    bars = []
    for row, (part, columns) in zip(rows, PARTS.items(), strict=True):
        alone, shared = (run.per_image_s(*columns) or 0 for run in (one, several))
        faster = alone / shared if shared else 0
        bars += [
            Bar(f"{part}, paper, 4 GPUs", [float(row[-1])], row[-1], 7),
            Bar(f"{part}, here, {_ranks(several)}", [faster], f"{faster:.2f}"),
        ]
        row += [f"{1000 * alone:.1f}", f"{1000 * shared:.1f}", f"{faster:.2f}"]
    return [Table(header, rows), Bars(f"Times as fast as {_ranks(one)}", bars)]


def _ranks(run: RunFiles) -> str:
    return "1 rank" if run.ranks == 1 else f"{run.ranks} ranks"


def _by_epoch(
    title: str,
    theirs: Mapping[str, Sequence[float]],
    runs: Sequence[RunFiles],
    points: Callable[[RunFiles], Sequence[tuple[float, float]]],
) -> Chart | None:
    """The paper's lines, dashed, and one's own."""
    lines = [
        Line(name, _share(range(1, len(values) + 1)), values, 7 - i, dashed=True)
        for i, (name, values) in enumerate(theirs.items())
    ]
    for i, run in enumerate(runs):
        found = points(run)
        lines.append(Line(run.name, _share([x for x, _ in found]), [y for _, y in found], i))
    return line_chart(title, lines, x="share of the epochs, %", from_zero=True)


def _share(epochs: Sequence[float]) -> list[float]:
    """In percent of the last one, so that trainings of any length lie over each other."""
    return [100 * epoch / epochs[-1] for epoch in epochs]


def inference(runs: Sequence[RunFiles]) -> Section:
    """Eager against graph, Python against C++: seconds, and how long beside eager fp32 on the same machine."""
    measured = next(filter(None, map(_measured, runs)), {})
    theirs = [row for row in paper.inference() if row.device == "cpu" and row.batch == 1]
    rows, bars = [], []
    for row in theirs:
        here = {who: measured.get(side or "", {}) for who, side in ((PLAIN, row.plain), (OURS, row.ours))}
        seconds = (f"{found['p50_s']:.3f}" if found else "" for found in here.values())
        rows.append([row.what, f"{row.seconds:.3f}", *seconds, row.ours or ""])
        relative = {PAPER: row.seconds / theirs[0].seconds}
        # Measured in the same rounds: the medians of sides that had their turns at other times say less.
        relative |= {who: 1 / found["speed"] for who, found in here.items() if found.get("speed")}
        for colour, who in ((7, PAPER), (1, PLAIN), (0, OURS)):
            if who in relative:
                bars.append(Bar(f"{row.what}: {who}", [relative[who]], f"{relative[who]:.2f}", colour))
    header = ["one image on the CPU", *(f"{who}, s" for who in (PAPER, PLAIN, OURS)), "which is"]
    caption = f"The paper at {paper.SIZE} px, here at {next(iter(measured.values()))['size']}" if measured else ""
    blocks: list[Block] = [Table(header, rows, caption), Bars("Time beside plain eager fp32 on the same machine", bars)]
    if not measured:
        options = "benchmark=inference", "benchmark.paper=true"
        blocks.append(Note("One's own figures come from", command("benchmark", runs[0], *options), "missing"))
    note = (
        "The paper timed single calls, the first ones, in which TorchScript compiles. Here calls are warmed up and "
        "repeated, so graphs are not slower than eager PyTorch for that reason."
    )
    return Section("The paper: inference", [*blocks, Note(note)])


def _measured(run: RunFiles) -> dict[str, Mapping[str, Any]]:
    """By side the rows of `benchmark=inference` on the CPU, one image a call, at the first size."""
    rows = [row for row in run.benchmark.get("rows", []) if row.get("p50_s")]
    here = [row for row in rows if (row["device"], row["batch"], row["size"]) == ("cpu", 1, rows[0]["size"])]
    return {row["side"]: row for row in here}


def quantization(runs: Sequence[RunFiles]) -> Section:
    """Accuracy, size and time before and after static int8."""
    by_name = {row.what: row for row in paper.inference() if row.batch == 1 and row.device == "cpu"}
    rows = []
    for what in ("eager fp32", "static int8", "dynamic int8"):
        row = by_name[what]
        rows.append([f"paper: {what}", f"{row.accuracy:.1%}", f"{row.mb:.2f}", f"{1000 * row.seconds:.0f}"])
    for run in runs:
        for name, about in run.artifacts.items():
            metrics = about["metrics"]
            accuracy = f"{metrics['accuracy']:.1%}" if "accuracy" in metrics else ""
            time_ms = f"{metrics['time_ms']:.0f}" if "time_ms" in metrics else ""
            rows.append([f"{run.name}: {name}", accuracy, f"{about['size_bytes'] / 1e6:.2f}", time_ms])
    note = Note(
        "The paper's 155 and 145 right of 260 may differ by chance, and it calibrated on validation images; here "
        "training images are taken for that."
    )
    return Section(
        "The paper: before and after quantization", [Table(["", "accuracy", "MB", "ms an image"], rows), note]
    )
