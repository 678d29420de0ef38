"""The figures of "Optimization of Efficient Transformer for High Resolution Images", as its logs and tables have them."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

IMAGES = 1600  # an epoch, on all devices
SIZE = 4000  # px
NAMES = {"single_gpu": "paper, 1 GPU", "ddp4_annealed": "paper, 4 GPUs"}
# Seconds an epoch, as its table says: loading, training, running.
EPOCH_S = {"loading": (1000, 271), "training": (160, 90), "running": (1170, 360)}


class Inference(NamedTuple):
    """A row of its Fig. 5 to 9.

    seconds a call at 4000 px, megabytes, accuracy on 260 images; the sides of `benchmark=inference` that answer to it.
    """

    what: str
    device: str
    batch: int
    seconds: float
    mb: float | None
    accuracy: float | None
    plain: str | None
    ours: str | None


def inference() -> list[Inference]:
    """All that it measured of inference."""
    return [
        Inference(
            row["what"],
            row["device"],
            int(row["batch"]),
            float(row["seconds"]),
            _number(row["mb"]),
            _number(row["accuracy"]),
            row["plain"] or None,
            row["ours"] or None,
        )
        for row in _rows("paper_inference.csv")
    ]


def epochs() -> Mapping[str, Mapping[str, list[float]]]:
    """By run the columns of its log, an entry an epoch, the means of the ranks: `train_loss`, `load_s` and so on."""
    columns = ("train_loss", "train_acc", "val_loss", "val_acc", "load_s", "train_s", "run_s")
    found: dict[str, dict[str, list[float]]] = {}
    for run in NAMES:
        by_epoch: dict[int, list[dict[str, str]]] = {}
        for row in _rows("paper_epochs.csv"):
            if row["run"] == run:
                by_epoch.setdefault(int(row["epoch"]), []).append(row)
        found[run] = {name: [_mean(rows, name) for _, rows in sorted(by_epoch.items())] for name in columns}
    return found


def _mean(rows: list[dict[str, str]], column: str) -> float:
    """Over ranks. The single GPU's loading was not logged: it is the rest of running."""
    return sum(float(row[column] or float(row["run_s"]) - float(row["train_s"])) for row in rows) / len(rows)


def _number(text: str) -> float | None:
    return float(text) if text else None


def _rows(name: str) -> list[dict[str, str]]:
    with (Path(__file__).parent / name).open(newline="") as file:
        return list(csv.DictReader(file))
