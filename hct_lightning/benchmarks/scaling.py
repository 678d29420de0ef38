"""How training scales over ranks: whole runs of one and of several single-thread CPU ranks, in turn.

Each rank sees the same number of images per step, as in the paper. What is compared is images per
second of running, from the second epoch on (the first warms up).
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def benchmark(
    *,
    ranks: int = 2,
    resolution: int = 2000,
    batch_size: int = 8,
    steps: int = 4,
    epochs: int = 3,
    rounds: int = 5,
) -> dict[str, Any]:
    """Measures and gives the ratio `two_ranks` (named after its number) and a row per side.

    Args:
        ranks: of the larger side.
        resolution: of the scenes, pixels.
        batch_size: images per rank and step.
        steps: optimiser steps per epoch of the larger side.
        epochs: per run; the first is not counted.
        rounds: runs of each side.
    """
    names = {2: "two_ranks", 4: "four_ranks"}
    with tempfile.TemporaryDirectory() as home:
        times = {1: [], ranks: []}
        for turn in range(rounds):
            for world in times:
                run = Path(home) / f"{world}-{turn}"
                images = steps * batch_size * ranks
                command = [
                    sys.executable,
                    "-m",
                    "hct_lightning",
                    f"trainer.devices={world}",
                    "trainer.accelerator=cpu",
                    "runtime.threads=1",
                    f"data.resolution={resolution}",
                    f"data.scene_size={resolution}",
                    f"data.train={images}",
                    "data.valid=4",
                    f"data.batch_size={batch_size}",
                    f"trainer.max_epochs={epochs}",
                    "data.num_workers=0",
                    "export=[]",
                    f"hydra.run.dir={run}",
                ]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                record = json.loads((run / "run.json").read_text())
                times[world].append(record["epoch_times"][1:])
    # A step of several ranks is as slow as the slowest of them, and an epoch here lasts seconds: the
    # median of all epochs of a side is what neighbours on the machine disturb least.
    speed = {
        world: statistics.median(row["images_s"] for rows in runs for row in rows) for world, runs in times.items()
    }
    return {
        "title": f"{ranks} single-thread ranks against 1, {resolution} px, {batch_size} images a rank",
        "ratios": {names.get(ranks, f"{ranks}_ranks"): speed[ranks] / speed[1]},
        "rows": [
            {
                "ranks": world,
                "images_s": speed[world],
                **{
                    f"{label} (s/image)": statistics.median(
                        row[part] / (row["images_s"] * row["run_s"]) for rows in runs for row in rows
                    )
                    for label, part in (
                        ("loading", "load_s"),
                        ("training", "train_s"),
                        ("waiting", "wait_s"),
                        ("running", "run_s"),
                    )
                },
            }
            for world, runs in times.items()
        ],
    }
