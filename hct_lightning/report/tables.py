"""What a run shows at its beginning and its end: lines in the log, and tables."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from hct_lightning.deploy.artifact import read_descriptions
from hct_lightning.runs.console import results
from hct_lightning.runs.folder import Run
from hct_lightning.runs.record import read_record

log = logging.getLogger(__name__)

PARTS_SHOWN = {"loading": "load_s", "training": "train_s", "waiting": "wait_s", "running": "run_s"}


def describe(summary: dict[str, Any]) -> None:
    """Logs which data a run uses: source, counts by class, sizes before and after cropping, notes."""
    counts = summary["counts"]
    log.info("data: %s", summary["source"])
    for name, number in summary["images"].items():
        each = ", ".join(f"{cls} {count}" for cls, count in counts[name].items())
        log.info("  %s: %d images (%s)", name, number, each)
    small, large = (f"{h}x{w}" for h, w in summary["source_size"].values())
    decoding = summary["decoding"]
    becomes = "{}x{} ({})".format(*decoding["size"], decoding["geometry"]) if decoding["size"] else "as they are"
    shown = small if small == large else f"{small} to {large}"
    log.info("  %d channel(s), %s -> %s", decoding["channels"], shown, becomes)
    for note in summary["notes"]:
        log.info("  note: %s", note)


def show_results(run: Run, trainer: Any, times: list[dict[str, float]], report: Path | None = None) -> None:
    """Tables of results and times, and where things lie, on standard output."""
    metrics = run.record["metrics"]
    scores = Table("", "last epoch", title="Validation", title_justify="left")
    for name in ("accuracy", "balanced_accuracy", "f1", "auroc", "loss"):
        if f"val/{name}" in metrics:
            scores.add_row(name.replace("_", " "), f"{metrics[f'val/{name}']:.4f}")
    for name, best in metrics.items():
        if name == "best" or name.startswith("best/"):
            scores.add_row(f"best {name.removeprefix('best').removeprefix('/') or 'accuracy'}", f"{best:.4f}")
    clock = time_table(times, metrics.get("memory/peak_gib"))
    places = Table("what", "where", title="Results", title_justify="left")
    places.add_row("run", str(run.folder))
    for name in ("best", "last"):
        if (path := run.folder / "checkpoints" / f"{name}.ckpt").exists():
            places.add_row(f"checkpoint ckpt={name}", str(path.relative_to(run.folder)))
    for name, description in read_descriptions(run.folder / "artifacts").items():
        size = f"{description['size_bytes'] / 1e6:.2f} MB"
        places.add_row(f"artifact {name}, {size}", f"artifacts/{name}/")
    places.add_row("every metric", "metrics.csv")
    if report:
        places.add_row("report", str(report.relative_to(run.folder)))
    console = results()
    for table in (scores, clock, places):
        if table.row_count:
            console.print(table)


def time_table(times: list[dict[str, Any]], peak_gib: float | None) -> Table:
    """Seconds per epoch, averaged over epochs: the mean of the ranks, and each rank's where there are several."""
    table = Table("per epoch", *PARTS_SHOWN, "images/s", "peak memory", title="Time")
    table.title_justify = "left"
    if not times:
        return table

    def seconds(rows: list[dict[str, float]]) -> list[str]:
        return [f"{sum(r[part] for r in rows) / len(rows):.2f} s" for part in PARTS_SHOWN.values()]

    images_s = sum(row["images_s"] for row in times) / len(times)
    peak = "" if peak_gib is None else f"{peak_gib:.2f} GiB"
    ranks = min(len(row["ranks"]) for row in times)  # some may have been lost
    name = "mean" if ranks == 1 else f"mean of {ranks} ranks"
    table.add_row(name, *seconds(times), f"{images_s:.1f}", peak)
    for rank in range(ranks if ranks > 1 else 0):
        table.add_row(f"rank {rank}", *seconds([row["ranks"][rank] for row in times]))
    return table


def epoch_times_of(against: str, size: Sequence[int] | None, channels: int) -> list[dict[str, Any]]:
    """The times of an earlier run's epochs, to compare those of a run with the same images with.

    Args:
        against: its folder.
        size: (height, width) of this run's images; None where each keeps its own.
        channels: of these.

    Raises:
        ValueError: when there is no such run, it has no times, or had other images.
    """
    folder = Path(against).expanduser()
    record = read_record(folder / "run.json")
    if not record:
        raise ValueError(
            f"fit.against={against}: there is no run in {folder.resolve()}; give the folder of a finished one"
        )
    if record.get("status") != "completed" or not record.get("epoch_times"):
        raise ValueError(f"fit.against={against}: that run is {record.get('status')} and has no times; finish it first")
    theirs = record["data"]["decoding"]
    mine = list(size) if size else None
    if (theirs["size"], theirs["channels"]) != (mine, channels):
        have, want = ("x".join(map(str, sides or ["their own"])) for sides in (theirs["size"], mine))
        raise ValueError(
            f"fit.against={against}: its images have {have} pixels and {theirs['channels']} channels, these {want} and "
            f"{channels}; compare runs on the same"
        )
    return record["epoch_times"]


def say_speed_up(times: list[dict[str, Any]], earlier: list[dict[str, Any]], against: str) -> None:
    """Logs how much faster an epoch's parts are, per image, than those of the earlier run `against`."""

    def per_image(rows: list[dict[str, Any]], parts: tuple[str, ...]) -> float:
        return sum(sum(r[part] for part in parts) / (r["images_s"] * r["run_s"]) for r in rows) / len(rows)

    shown = {"loading": ("load_s",), "training": ("train_s", "wait_s"), "running": ("run_s",)}
    ratios = (f"{name} {per_image(earlier, parts) / per_image(times, parts):.2f}" for name, parts in shown.items())
    log.info("speed-up per image against %s: %s", against, ", ".join(ratios))
