"""Folders of runs as fitting leaves them, written by hand: what they hold is known, and made in no time."""

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

from hct_lightning.report.predictions import prediction_rows

CLASSES = ["cat", "dog", "<b>owl</b>"]


def epoch_times(ranks: int, epochs: int = 3) -> list[dict]:
    """Of 12 images; several ranks take their share of a second of training, and wait a little for each other."""
    row = {"load_s": 0.2 / ranks, "train_s": 1.0 / ranks, "wait_s": 0.1 * (ranks > 1)}
    row["run_s"] = sum(row.values())
    return [row | {"epoch": i, "images_s": 12 / row["run_s"], "ranks": [row] * ranks} for i in range(epochs)]


def write_run(folder: Path, ranks: int = 1, accuracy: float = 0.75) -> Path:
    """`run.json`, `metrics.csv` and `.hydra/overrides.yaml`."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(f"- trainer.devices={ranks}\n- data.root=my photos\n")
    record = {
        "status": "completed",
        "started": "2026-11-24T00:34:01+0000",
        "seconds": 72.5,
        "machine": {"host": "vm", "system": "Linux", "cpu": "a CPU", "cpus": 2, "threads": 1, "gpus": []},
        "data": {
            "source": "folder /photos",
            "counts": {"train": dict.fromkeys(CLASSES, 4)},
            "images": {"train": 12, "valid": 6},
            "source_size": {"smallest": [100, 200], "largest": [300, 400]},
            "decoding": {"size": [64, 64], "channels": 3},
            "notes": [],
        },
        "metrics": {"best": accuracy, "memory/peak_gib": 1.5},
        "epoch_times": epoch_times(ranks),
        "memory_plan": {"ranks": ranks, "micro_batches": 1, "memory": "speed"},
        "versions": {"torch": "2.14"},
    }
    (folder / "run.json").write_text(json.dumps(record))
    rows = [{"step": 0, "epoch": 0, "train/loss_step": 2.0, "lr-Adam": 0.1}]
    for i, times in enumerate(epoch_times(ranks)):
        measured = {"val/loss": 1 / (i + 1), "val/accuracy": accuracy, "train/loss_epoch": 1.5, "train/accuracy": 0.5}
        timed = {f"time/{key}": times[key] for key in ("load_s", "train_s", "wait_s", "run_s", "images_s")}
        rows.append({"step": 3 * i + 2, "epoch": i, **measured, **timed})
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0] | rows[-1]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def add_predictions(folder: Path) -> None:
    """Two images a class, of which the last is taken for a cat; small images of all."""
    probabilities = np.full((6, 3), 0.1)
    probabilities[range(6), [0, 0, 1, 1, 2, 0]] = 0.8
    names = [CLASSES[i // 2] for i in range(6)]
    rows = prediction_rows([f"/photos/{i}<i>\udcff.jpg" for i in range(6)], names, CLASSES, probabilities)
    (folder / "validate" / "best").mkdir(parents=True)
    with (folder / "validate" / "best.csv").open("w", newline="", errors="surrogateescape") as file:
        csv.writer(file).writerows(rows)
    for i in range(6):
        Image.new("RGB", (64, 48), (40 * i, 90, 120)).save(folder / "validate" / "best" / f"{i}.jpg")


def add_artifact(folder: Path, name: str, time_ms: float = 20.0) -> None:
    described = {
        "format": 2,
        "name": name,
        "runtime": "openvino",
        "precision": "int8",
        "file": "model.xml",
        "instruction_set": "AVX512",
        "versions": {"torch": "2.14"},
        "classes": CLASSES,
        "sha256": {},
        "input": {"channels": 3, "min": [64, 64], "max": None, "multiple": 32, "batch": None},
        "decoding": {},
        "size_bytes": 2_000_000,
        "metrics": {
            "time_ms": time_ms,
            "images": 6,
            "accuracy": 0.8,
            "accuracy_fp32": 0.9,
            "agreement": 0.95,
            "sqnr_db": 30.0,
        },
    }
    (folder / "artifacts" / name).mkdir(parents=True)
    (folder / "artifacts" / name / "artifact.json").write_text(json.dumps(described))


def add_explanations(folder: Path) -> None:
    """Of one image, by one method, beside one that could not be read; and a receptive field."""
    about = {"jpg": "a/gradient.jpg", "png": "a/gradient.png", "correlation_with_random": 0.125}
    image = {
        "path": "/photos/<i>.jpg",
        "class": "cat",
        "probability": 0.9,
        "target": "cat",
        "maps": {"gradient": about},
    }
    field = {"network": "HCT", "weights": "trained", "half_side_50": 0.25, "half_side_95": 0.5}
    (folder / "explain" / "a").mkdir(parents=True)
    for name in ("a/gradient.jpg", "receptive_field.jpg"):
        Image.new("RGB", (64, 48), "orange").save(folder / "explain" / name)
    record = {"images": [image, {"path": "broken.jpg", "error": "why"}], "receptive_field": [field]}
    (folder / "explain" / "explain.json").write_text(json.dumps(record))


def add_measurements(folder: Path) -> None:
    """Of a partial quantization, a benchmark and the profiler."""
    (folder / "export").mkdir()
    rows = [
        {
            "percent": p,
            "accuracy": 0.9 - p / 1000,
            "agreement": 1.0,
            "size_bytes": 7e6 - 5e4 * p,
            "time_ms": 30 - p / 10,
        }
        for p in (0, 50, 100)
    ]
    (folder / "export" / "openvino_int8.json").write_text(json.dumps({"rows": rows, "sensitivity": {}}))
    (folder / "benchmark").mkdir()
    side = {"size": "64x64", "batch": 1, "device": "cpu"}
    took = (("plain eager", 0.2), ("torchscript", 0.1))
    sides = [{"side": name, **side, "p50_s": s, "speed": 0.2 / s} for name, s in took]
    found = {
        "title": "Inference",
        "rows": sides,
        "more": [{"title": "Accuracy", "rows": [{"side": "torchscript", "accuracy": 0.9}]}],
    }
    (folder / "benchmark" / "benchmark.json").write_text(json.dumps(found))
    (folder / "profile").mkdir()
    (folder / "profile" / "fit-summary-0.txt").write_text(PROFILE)


PROFILE = """Per training batch, of 3:
computation                      12.00 ms

--------------------  ------------  ------------  ------------
                Name    Self CPU %      Self CPU    # of Calls
--------------------  ------------  ------------  ------------
       ProfilerStep*        19.00%       1.900ms             3
           aten::add        10.50%       1.050ms            30
   aten::convolution        70.25%       7.025ms            12
--------------------  ------------  ------------  ------------
Self CPU time total: 10.000ms
"""
