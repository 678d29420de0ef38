"""One's own runs laid over the paper's curves, tables and figures."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from hct_lightning.report import paper
from hct_lightning.report.charts import Line, line_chart
from hct_lightning.report.files import RunFiles
from hct_lightning.report.page import Bar, Bars, Block, Charts, Note, Section, Table
from hct_lightning.report.sections.overview import command

PARTS = {"loading": ("load_s",), "training": ("train_s", "wait_s"), "running": ("run_s",)}
# Chart: the column of the paper's log, the key in metrics.csv.
LEARNING = {
    "Training loss": ("train_loss", "train/loss_epoch"),
    "Training accuracy": ("train_acc", "train/accuracy"),
    "Validation loss": ("val_loss", "val/loss"),
    "Validation accuracy": ("val_acc", "val/accuracy"),
}
EAGER = "eager fp32"


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
        "The paper trained on 1600 photographs of LIU4K in four classes at 4000 px, and validated on 260. On one GPU its "
        "validation accuracy is a mean over batches. Runs on other data differ in how hard that is, not only in how they train."
    )
    return Section("The paper: learning", [Note(text), Charts(charts)])


def times(runs: Sequence[RunFiles]) -> Section:
    """Loading, training and running: seconds for each image, and how many times as fast several devices are."""
    logs = paper.epochs()
    charts = []
    for part, columns in PARTS.items():
        theirs = {
            paper.NAMES[name]: [value / paper.IMAGES for value in log[columns[0]]] for name, log in logs.items()
        }
        charts.append(
            _by_epoch(f"{part.capitalize()}, s for each image", theirs, runs, lambda run, c=columns: per_image(run, c))
        )
    blocks: list[Block] = [Charts(charts)]
    one, several = fewest_and_most(runs)
    header = ["", *(f"{name}, s an epoch" for name in paper.NAMES.values()), "times as fast"]
    rows = [[part, f"{alone}", f"{four}", f"{alone / four:.2f}"] for part, (alone, four) in paper.EPOCH_S.items()]
    if one and several:
        header += [f"{run.name}, {run.ranks} rank(s), ms an image" for run in (one, several)]
        header.append("times as fast per image")
        bars = []
        for row, (part, columns) in zip(rows, PARTS.items(), strict=True):
            alone, shared = one.per_image_s(*columns) or 0, several.per_image_s(*columns) or 0
            faster = alone / shared if shared else 0
            row += [f"{1000 * alone:.1f}", f"{1000 * shared:.1f}", f"{faster:.2f}"]
            theirs = paper.EPOCH_S[part][0] / paper.EPOCH_S[part][1]
            bars += [
                Bar(f"{part}, paper, 4 GPUs", [theirs], f"{theirs:.2f}", 7),
                Bar(f"{part}, here, {several.ranks} rank(s)", [faster], f"{faster:.2f}"),
            ]
        blocks += [Table(header, rows), Bars(f"Times as fast as {one.ranks} rank(s)", bars)]
    else:
        blocks += [Table(header, rows), Note("Give runs on one rank and on several, and they stand here side by side.")]
    blocks.append(
        Note(
            "Training includes waiting for the gradients of other ranks. The paper's loading was faster on four GPUs in "
            "good part because eight processes read instead of two."
        )
    )
    return Section("The paper: time of an epoch", blocks)


def fewest_and_most(runs: Sequence[RunFiles]) -> tuple[RunFiles | None, RunFiles | None]:
    """The runs with times on the fewest ranks and on the most; None where all have as many."""
    timed = sorted((run for run in runs if run.mean_s("run_s")), key=lambda run: run.ranks)
    if not timed or timed[0].ranks == timed[-1].ranks:
        return None, None
    return timed[0], timed[-1]


def per_image(run: RunFiles, parts: Sequence[str]) -> list[tuple[float, float]]:
    """(epoch, seconds that parts of it took for each image)."""
    columns = [run.metrics.get(f"time/{part}", []) for part in (*parts, "run_s", "images_s")]
    return [
        (row[0][0], sum(value for _, value in row[:-2]) / (row[-2][1] * row[-1][1])) for row in zip(*columns, strict=False)
    ]


def _by_epoch(
    title: str,
    theirs: Mapping[str, Sequence[float]],
    runs: Sequence[RunFiles],
    points: Callable[[RunFiles], Sequence[tuple[float, float]]],
):
    """The paper's lines, dashed, and one's own."""
    lines = [
        Line(name, range(1, len(values) + 1), values, 7 - i, dashed=True)
        for i, (name, values) in enumerate(theirs.items())
    ]
    for i, run in enumerate(runs):
        found = points(run)
        lines.append(Line(run.name, [x for x, _ in found], [y for _, y in found], i))
    return line_chart(title, lines, x="epoch", from_zero=True)


def inference(runs: Sequence[RunFiles]) -> Section:
    """Eager against graph, Python against C++: seconds, and how long beside eager fp32 on the same machine."""
    measured = next(({r["side"]: r for r in rows} for run in runs if (rows := list(_measured(run)))), {})
    rows, bars = [], []
    eager = {"paper": 0.147, "plain": _s(measured, "plain eager"), "here": _s(measured, "plain eager")}
    for row in paper.inference():
        if row.device != "cpu" or row.batch != 1:
            continue
        seconds = {"paper": row.seconds, "plain": _s(measured, row.plain), "here": _s(measured, row.ours)}
        rows.append([row.what, *(f"{s:.3f}" if s else "" for s in seconds.values()), row.ours or ""])
        for name, colour in (("paper", 7), ("plain", 1), ("here", 0)):
            own, base = seconds[name], eager[name]
            if own and base:
                text = f"{own / base:.2f}"
                bars.append(Bar(f"{row.what}: {NAMED[name]}", [own / base], text, colour))
    header = ["one image on the CPU", "paper, s", "plain PyTorch here, s", "HCT-Lightning here, s", "which is"]
    size = next(iter(measured.values()))["size"] if measured else ""
    caption = f"The paper at {paper.SIZE} px, here at {size}" if size else ""
    blocks: list[Block] = [Table(header, rows, caption), Bars("Time beside plain eager fp32 on the same machine", bars)]
    if not measured:
        options = "benchmark=inference", "benchmark.paper=true"
        blocks.append(Note("One's own figures come from", command("benchmark", runs[0], *options), "missing"))
    blocks.append(
        Note(
            "The paper timed single calls, the first ones, in which TorchScript compiles. Here calls are warmed up and "
            "repeated, so graphs are not slower than eager PyTorch for that reason."
        )
    )
    return Section("The paper: inference", blocks)


NAMED = {"paper": "paper", "plain": "plain PyTorch here", "here": "HCT-Lightning here"}


def _measured(run: RunFiles) -> Iterator[Mapping]:
    """The rows of `benchmark=inference` on the CPU, one image a call, at the first size."""
    rows = [row for row in run.benchmark.get("rows", []) if "p50_s" in row]
    for row in rows:
        if row["device"] == "cpu" and row["batch"] == 1 and row["size"] == rows[0]["size"]:
            yield row


def _s(measured: Mapping[str, Mapping], side: str | None) -> float | None:
    return measured[side]["p50_s"] if side in measured else None


def quantization(runs: Sequence[RunFiles]) -> Section:
    """Accuracy, size and time before and after static int8."""
    by_name = {row.what: row for row in paper.inference() if row.batch == 1 and row.device == "cpu"}
    rows = []
    for what in (EAGER, "static int8", "dynamic int8"):
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
    return Section("The paper: before and after quantization", [Table(["", "accuracy", "MB", "ms an image"], rows), note])
