"""Artifacts, quantization by percentage, what a benchmark measured, and the hottest operators."""

from collections.abc import Mapping, Sequence
from typing import Any

from hct_lightning.report.charts import Line, line_chart
from hct_lightning.report.files import RunFiles
from hct_lightning.report.page import Bar, Bars, Block, Charts, Note, Section, Table
from hct_lightning.report.sections.overview import command

OPERATORS = 15  # that are shown
SPANS = ("[pl]", "ProfilerStep")  # rows of the loop around the operators
MEASURES = {  # of quantization by percentage: the key in its rows, and what it is divided by
    "Accuracy": ("accuracy", 1),
    "Agreement with fp32": ("agreement", 1),
    "Size, MB": ("size_bytes", 1e6),
    "Time of an image, ms": ("time_ms", 1),
}


def artifacts(runs: Sequence[RunFiles]) -> Section:
    """Size, time and accuracy of each."""
    made = [(run, name, about) for run in runs for name, about in run.artifacts.items()]
    if not made:
        text = "Artifacts of the best checkpoint:"
        return Section("Artifacts", [Note(text, command("export", runs[0]), "missing")])
    rows, bars = [], []
    for run, name, about in made:
        metrics, mb = about["metrics"], about["size_bytes"] / 1e6
        rows.append([_name(runs, run, name), about["runtime"], about["precision"], f"{mb:.2f}", *_measured(metrics)])
        if time_ms := metrics.get("time_ms"):
            bars.append(Bar(_name(runs, run, name), [time_ms], f"{time_ms:.1f} ms, {mb:.2f} MB"))
    header = ["artifact", "runtime", "precision", "MB", "ms an image", "accuracy", "before", "agreement", "SQNR, dB"]
    images = {about["metrics"]["images"] for *_, about in made if "images" in about["metrics"]}
    caption = f"Accuracy on {', '.join(map(str, sorted(images)))} validation images" if images else ""
    return Section("Artifacts", [Table(header, rows, caption), Bars("Time of an image", bars)])


def _measured(metrics: Mapping[str, Any]) -> list[str]:
    shown = (
        ("time_ms", ".1f"),
        ("accuracy", ".4f"),
        ("accuracy_fp32", ".4f"),
        ("agreement", ".4f"),
        ("sqnr_db", ".1f"),
    )
    return [format(metrics[key], form) if key in metrics else "" for key, form in shown]


def _name(runs: Sequence[RunFiles], run: RunFiles, name: str) -> str:
    return f"{run.name}: {name}" if len(runs) > 1 else name


def quantization(runs: Sequence[RunFiles]) -> Section:
    """Accuracy, size and time against the share of layers in int8."""
    measured = [(_name(runs, run, name), rows) for run in runs for name, rows in run.percentages.items()]
    if not measured:
        options = "export=[openvino_int8]", "export.percentages=[0,50,100]"
        text = "Quantization of a part of the layers:"
        return Section("Quantization by percentage", [Note(text, command("export", runs[0], *options), "missing")])
    charts = [
        line_chart(
            title,
            [
                Line(name, [row["percent"] for row in rows], [row[key] / by for row in rows if key in row], i)
                for i, (name, rows) in enumerate(measured)
                if all(key in row for row in rows)
            ],
            x="layers in int8, %",
        )
        for title, (key, by) in MEASURES.items()
    ]
    return Section("Quantization by percentage", [Charts(charts)])


def benchmarks(runs: Sequence[RunFiles]) -> Section:
    """The tables of `benchmark.json`, times as bars."""
    measured = [run for run in runs if run.benchmark]
    if not measured:
        text = "Artifacts beside plain PyTorch:"
        return Section("Benchmark", [Note(text, command("benchmark", runs[0], "benchmark=inference"), "missing")])
    blocks: list[Block] = []
    for run in measured:
        if len(runs) > 1:
            blocks.append(Note(run.name, level="heading"))
        rows = run.benchmark["rows"]
        bars = [
            Bar(row["side"], [row["p50_s"]], f"{1000 * row['p50_s']:.1f} ms")
            for row in rows
            if row.get("p50_s") and (row["size"], row["batch"]) == (rows[0]["size"], rows[0]["batch"])
        ]
        if bars:
            blocks.append(Bars("Median time of a call", sorted(bars, key=lambda bar: bar.parts[0])))
        for part in (run.benchmark, *run.benchmark.get("more", [])):
            if part["rows"]:
                names = list(part["rows"][0])
                cells = [[row.get(name, "") for name in names] for row in part["rows"]]
                blocks.append(Table(names, cells, part["title"]))
    return Section("Benchmark", blocks)


def operators(runs: Sequence[RunFiles]) -> Section:
    """Where a step computes, by PyTorch's profiler."""
    profiled = [run for run in runs if run.operators]
    if not profiled:
        text = "The hottest operators of a step, by a run of their own:"
        again = f"{runs[0].command} debug=profile"
        return Section("Hottest operators", [Note(text, again, "missing")])
    blocks: list[Block] = []
    for run in profiled:
        if len(runs) > 1:
            blocks.append(Note(run.name, level="heading"))
        gpu = any("Self CUDA %" in row for row in run.operators)
        share, total = ("Self CUDA %", "Self CUDA") if gpu else ("Self CPU %", "Self CPU")
        names = ["Name", share, total, "# of Calls"]
        found = [row for row in run.operators if not row["Name"].startswith(SPANS)]
        hottest = sorted(found, key=lambda row: -_percent(row.get(share)))[:OPERATORS]
        blocks.append(Table(names, [[row.get(name, "") for name in names] for row in hottest]))
    return Section("Hottest operators", blocks)


def _percent(text: str | None) -> float:
    try:
        return float((text or "").rstrip("%"))
    except ValueError:
        return 0.0
