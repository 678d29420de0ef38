"""How training scales over ranks: whole runs of one and of several ranks, in turn.

On GPUs where there are enough, else on the CPU with a thread a rank.

Each rank sees the same number of images per step, as in the paper. What is compared is images per
second of running, from the second epoch on (the first warms up).
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

PARTS = {"loading": "load_s", "training": "train_s", "waiting": "wait_s", "running": "run_s"}


def benchmark(*, ranks: int, resolution: int, batch_size: int, steps: int, epochs: int, rounds: int) -> dict[str, Any]:
    """Measures and gives the ratio `two_ranks` (named after its number) and a row per side.

    Args:
        ranks: of the larger side.
        resolution: of the scenes, pixels.
        batch_size: images per rank and step.
        steps: optimiser steps per epoch of the larger side.
        epochs: per run; the first is not counted.
        rounds: runs of each side.
    """
    options = (
        f"data.resolution={resolution}",
        f"data.scene_size={resolution}",
        f"data.train={steps * batch_size * ranks}",
        f"data.batch_size={batch_size}",
        f"trainer.max_epochs={epochs}",
    )
    times = {1: [], ranks: []}  # the epochs of each side
    with tempfile.TemporaryDirectory() as home:
        for turn in range(rounds):
            for world in times:
                times[world] += train(Path(home) / f"{world}-{turn}", world, ranks, options)[1:]
    # A step of several ranks is as slow as the slowest of them, and an epoch here lasts seconds: the
    # median of all epochs of a side is what neighbours on the machine disturb least.
    speed = {world: statistics.median(epoch["images_s"] for epoch in rows) for world, rows in times.items()}
    name = {2: "two_ranks", 4: "four_ranks"}.get(ranks, f"{ranks}_ranks")
    return {
        "title": f"{ranks} ranks against 1, {resolution} px, {batch_size} images a rank",
        "ratios": {name: speed[ranks] / speed[1]},
        "rows": [
            {
                "ranks": world,
                "images_s": speed[world],
                **{
                    f"{label} (s/image)": statistics.median(
                        epoch[part] / (epoch["images_s"] * epoch["run_s"]) for epoch in rows
                    )
                    for label, part in PARTS.items()
                },
            }
            for world, rows in times.items()
        ],
    }


def train(run: Path, ranks: int, most: int, options: Sequence[str]) -> list[dict[str, Any]]:
    """A training run in a process of its own; the times of its epochs. On GPUs where there are as many as `most`."""
    command = [
        sys.executable,
        "-m",
        "hct_lightning",
        "recipe=plain",
        f"trainer.devices={ranks}",
        f"trainer.accelerator={'cuda' if torch.cuda.device_count() >= most else 'cpu'}",
        "runtime.threads=1",
        "data.valid=4",
        "data.num_workers=0",
        "export=[]",
        f"hydra.run.dir={run}",
        *options,
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads((run / "run.json").read_text())["epoch_times"]
