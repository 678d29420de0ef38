"""What training steps would take and what fits: predicted without taking them."""

import json
import logging
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from rich.table import Table

from hct_lightning.cli.plain import plain
from hct_lightning.data.reading.geometry import Size, as_size
from hct_lightning.machine.runtime import resolve_accelerator, resolve_precision
from hct_lightning.models import FromPixels
from hct_lightning.parallel.delays import Delays
from hct_lightning.parallel.schemes import SCHEMES
from hct_lightning.parallel.simulator import compare_k
from hct_lightning.runs.console import results, track
from hct_lightning.runs.files import write_whole
from hct_lightning.runs.record import read_record
from hct_lightning.training.fast_stem import with_fast_stem
from hct_lightning.training.memory import Memory, set_memory, step_memory, tile_workers
from hct_lightning.training.memory_plan import RESERVE, available_bytes
from hct_lightning.training.spec import build_network
from hct_lightning.training.step import AUTOCAST, step_seconds

log = logging.getLogger(__name__)

CARDS_GB = (11, 24, 48, 80)
CONTEXT = 600 * 2**20  # bytes of a card for CUDA and its libraries, before the first tensor


def main(cfg: DictConfig, folder: Path) -> None:
    """`task=plan`: a table and the command that it suggests, and `plan/plan.json`."""
    check_run(cfg.run, folder)
    options: dict[str, Any] = plain(cfg.plan)
    kind = resolve_accelerator(cfg.trainer.accelerator)
    options["precision"] = [resolve_precision(p, kind) for p in options["precision"]]
    check(options)
    channels = cfg.data.channels or 3
    epochs = max(1, cfg.trainer.max_epochs or 1)  # of a training without a number of them, one
    build = partial(
        build_network,
        plain(cfg.model),
        channels=channels,
        classes=2,  # their number hardly matters
        mean=[0.5] * channels,
        std=[0.25] * channels,
    )
    device = torch.device(kind)
    here = available_bytes(device, 1)

    modes = [(precision, memory) for precision in options["precision"] for memory in options["memory"]]
    times = {
        (precision, memory): StepTime.measure(build(), channels, options["timed_at"], device, precision, memory)
        for precision, memory in track("timing real steps", modes, len(modes))
    }
    points: list[tuple[Any, int, tuple[str, Memory]]] = list(
        product(options["resolution"], options["batch_size"], modes)
    )
    rows = []
    for resolution, batch, (precision, memory) in track("predicting", points, len(points)):
        size = as_size(resolution)
        step = step_memory(
            build,
            channels=channels,
            size=size,
            batch=batch,
            precision=precision,
            memory=memory,
            workers=tile_workers(kind),
        )
        images = options["images"] * epochs
        rows.append(
            {
                "resolution": resolution,
                "batch_size": batch,
                "precision": precision,
                "memory": memory,
                "gpu_gib": step.reserved / 2**30,
                "cpu_gib": step.resident / 2**30,
                "fits_gb": [gb for gb in CARDS_GB if CONTEXT + step.reserved < (1 - RESERVE) * gb * 1e9],
                "fits_here": step.on(kind) < (1 - RESERVE) * here,
                "hours": times[precision, memory].step_s(batch, size) / batch * images / 3600,
            }
        )
    command = suggestion(rows)
    choices = compare_schemes(options) if options["workers"] else []
    command = command and command + in_ranks(choices, options["workers"])
    result = {
        "points": rows,
        "available_gib": here / 2**30,
        "command": command,
        "gradients": choices,
        "options": options,
    }
    out = folder / "plan" / "plan.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, json.dumps(result, indent=2) + "\n")

    results().print(table(rows))
    print(
        f"GPU, CPU: GiB of a step's peak. Fits with {RESERVE:.0%} to spare; here: {kind}, "
        f"{here / 2**30:.1f} GiB available.\n"
        f"Hours: training alone on this machine, {epochs} epoch(s) of "
        f"{options['images']} images, scaled by pixels from real steps at "
        f"{' and '.join(map(str, options['timed_at']))} px."
    )
    if choices:
        print(show_schemes(choices, options))
    print(f"-> {out}")
    print(command or "none of these fits this machine: give a smaller plan.resolution or batch_size")


def check_run(run: str | None, folder: Path) -> None:
    """Raises ValueError for one of task=pretrain, in `folder`."""
    if run and read_record(folder / "run.json").get("task") == "pretrain":
        raise ValueError(
            f"run={run} is of task=pretrain, and task=plan predicts the steps of networks that classify; for the "
            "training that begins with its weights leave run= out; pre-training finds what fits when it begins"
        )


def check(options: dict[str, Any]) -> None:
    """Raises ValueError for settings that no run could have."""
    known = {"precision": ("32-true", *AUTOCAST), "memory": ("speed", "low", "stream")}
    for name, choices in known.items():
        for value in options[name]:
            if value not in choices:
                raise ValueError(f"plan.{name}={value}: choose from {', '.join(choices)}")
    if len(set(options["timed_at"])) != 2:
        raise ValueError(f"plan.timed_at={options['timed_at']}: give two sizes, [512,1024] say")
    if options["workers"] is not None and options["workers"] < 1:
        raise ValueError(f"plan.workers={options['workers']}: give at least 1, or null")
    Delays(**options["delays"]).check("plan.delays")
    for batch in options["batch_size"]:
        if batch < 1:
            raise ValueError(f"plan.batch_size={batch}: give at least 1")


class StepTime(NamedTuple):
    """What a training step takes: for itself, and for each pixel of its images."""

    fixed_s: float
    pixel_s: float

    def step_s(self, batch: int, size: Size) -> float:
        return self.fixed_s + self.pixel_s * batch * size[0] * size[1]

    @classmethod
    def measure(
        cls,
        network: FromPixels,
        channels: int,
        sides: Sequence[int],
        device: torch.device,
        precision: str,
        memory: Memory,
    ) -> "StepTime":
        """The line through real steps with two images of either side."""
        with_fast_stem(network.to(device), device.type)
        set_memory(network, memory, workers=tile_workers(device.type))
        small, large = sorted(sides)
        measure = partial(step_seconds, network, channels=channels, device=device, precision=precision)
        a, b = measure(side=small), measure(side=large)
        pixel = max(b - a, 0.0) / (2 * (large**2 - small**2))
        return cls(max(a - pixel * 2 * small**2, 0.0), pixel)


def suggestion(rows: list[dict[str, Any]]) -> str | None:
    """The command of the largest images, then batch, then speed, that fit this machine."""
    fitting = [row for row in rows if row["fits_here"]]
    if not fitting:
        return None

    def worth(row: dict[str, Any]) -> tuple[float, ...]:
        height, width = as_size(row["resolution"])
        return height * width, row["batch_size"], -row["hours"]

    best = max(fitting, key=worth)
    resolution = str(best["resolution"]).replace(" ", "")
    streamed = " recipe=plain" if best["memory"] == "stream" else ""  # whose statistics stay as they are
    return (
        f"python -m hct_lightning data.resolution={resolution} data.batch_size={best['batch_size']} "
        f"trainer.precision={best['precision']} memory={best['memory']}{streamed}"
    )


def compare_schemes(options: dict[str, Any]) -> list[dict[str, Any]]:
    """The schemes of `gradients=`, with every K for `plan.workers` workers, simulated."""
    workers, delays = options["workers"], Delays(**options["delays"])
    noise = workers if options["noise"] is None else options["noise"]
    updates = max(50, min(2000, 200_000 // workers**2))
    return [
        {"gradients": name, "k": choice.k, **choice.simulated._asdict(), "progress_s": choice.progress_s}
        for name in SCHEMES
        for choice in compare_k(name, workers, delays, noise=noise, updates=updates)
    ]


def best_of(name: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    """The K of a scheme that makes progress the fastest."""
    return min((row for row in choices if row["gradients"] == name), key=lambda row: row["progress_s"])


def in_ranks(choices: list[dict[str, Any]], workers: int | None) -> str:
    """What the command of so many ranks has besides; empty where they were not asked for."""
    if not choices:
        return ""
    k = best_of("k_sync", choices)["k"]
    return f" trainer.devices={workers}" + (f" gradients=k_sync gradients.k={k}" if k != workers else "")


def show_schemes(choices: list[dict[str, Any]], options: dict[str, Any]) -> str:
    """Prints a table with the best K of each scheme beside synchronous training; gives what to say below it."""
    synchronous = next(row for row in choices if (row["gradients"], row["k"]) == ("k_sync", options["workers"]))
    best = [best_of(name, choices) for name in SCHEMES]
    columns = ("gradients", "k", "update_s", "staleness", "idle", "dropped", "progress_s")
    shown = Table(*columns, title=f"{options['workers']} workers, simulated", title_justify="left")
    for row in (synchronous, *best):
        shown.add_row(row["gradients"], str(row["k"]), *(f"{row[column]:.3g}" for column in columns[2:]))
    results().print(shown)
    return (
        "The first row is synchronous training; then each scheme with the K of the least progress_s: seconds per update "
        "times 1 + plan.noise / K, without what staleness costs."
    )


def table(rows: list[dict[str, Any]]) -> Table:
    """A row per setting; a dot where it does not fit."""
    cards = [f"{gb} GB" for gb in CARDS_GB]
    shown = Table(
        "pixels",
        "batch",
        "precision",
        "memory",
        "GPU",
        *cards,
        "CPU",
        "here",
        "hours",
        title="A training step, predicted",
        title_justify="left",
    )
    for row in rows:
        shown.add_row(
            str(row["resolution"]),
            str(row["batch_size"]),
            row["precision"],
            row["memory"],
            f"{row['gpu_gib']:.2f}",
            *("fits" if gb in row["fits_gb"] else "." for gb in CARDS_GB),
            f"{row['cpu_gib']:.2f}",
            "fits" if row["fits_here"] else ".",
            f"{row['hours']:.3g}",
        )
    return shown
