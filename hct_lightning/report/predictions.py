"""What a network said of labelled images, as a CSV file, and what figures say of it."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

SHOWN = 8  # best and worst predictions whose images a report shows
BINS = 10  # of the reliability diagram


@dataclass(frozen=True)
class JudgedImages:
    """n labelled images.

    Args:
        paths: of the images.
        labels: n class indices.
        probabilities: n classes.
        classes: their names.
        file: that they were read from; images of the best and worst lie in the folder of its name.
    """

    paths: list[str]
    labels: np.ndarray
    probabilities: np.ndarray
    classes: list[str]
    file: Path

    @property
    def answers(self) -> np.ndarray:
        """n class indices, the most probable."""
        return self.probabilities.argmax(axis=1)

    @property
    def accuracy(self) -> float:
        return float((self.answers == self.labels).mean())

    def thumbnail(self, row: int) -> Path:
        """Where a small image of a row lies, if it is shown."""
        return self.file.with_suffix("") / f"{row}.jpg"

    def confusion(self) -> np.ndarray:
        """classes classes counts: true by predicted."""
        n = len(self.classes)
        return np.bincount(self.labels * n + self.answers, minlength=n * n).reshape(n, n)

    def worst(self) -> list[int]:
        """Rows whose true class was given the least probability, the least first."""
        return np.argsort(self._of_label, kind="stable")[:SHOWN].tolist()

    def best(self) -> list[int]:
        """Right answers of which the network was surest, the classes in turn."""
        turn = np.zeros(len(self.labels), int)
        for label in range(len(self.classes)):
            mine = np.flatnonzero(self.labels == label)
            turn[mine[np.argsort(-self._of_label[mine], kind="stable")]] = np.arange(len(mine))
        order = np.lexsort((self.labels, turn))
        return order[(self.answers == self.labels)[order]][:SHOWN].tolist()

    @property
    def _of_label(self) -> np.ndarray:
        return self.probabilities[np.arange(len(self.labels)), self.labels]


def wilson(right: float, images: int, z: float = 1.96) -> tuple[float, float]:
    """The interval of the accuracy `right / images`, at 95 % for z = 1.96.

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.
    """
    p = right / images
    centre = p + z * z / (2 * images)
    spread = z * math.sqrt(p * (1 - p) / images + z * z / (4 * images * images))
    scale = 1 + z * z / images
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


class Curves(NamedTuple):
    """Of one class against the rest, each by falling threshold; the areas are nan where a side is empty.

    recall, precision, false_positives: rates. auroc: area under recall over false_positives. ap: average precision.
    """

    recall: np.ndarray
    precision: np.ndarray
    false_positives: np.ndarray
    auroc: float
    ap: float


def curves(scores: np.ndarray, positive: np.ndarray) -> Curves:
    """ROC, precision and recall of n scores, where n booleans say which are of the class."""
    order = np.argsort(-scores, kind="stable")
    last_of_ties = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    true = np.cumsum(positive[order])[last_of_ties]
    false = last_of_ties + 1 - true
    with np.errstate(invalid="ignore"):
        recall, false_positives = true / positive.sum(), false / (~positive).sum()
    precision = true / (true + false)
    steps = np.diff(recall, prepend=0)
    auroc = np.trapezoid(np.append(0, recall), np.append(0, false_positives))
    return Curves(recall, precision, false_positives, float(auroc), float((steps * precision).sum()))


class Reliability(NamedTuple):
    """Answers in bins of equal width of their probability; empty bins are left out.

    confidence, accuracy: means of the bins. count: answers in each. ece: expected calibration error, the mean
    distance of the two, weighted by the answers.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray
    ece: float


def reliability(found: JudgedImages) -> Reliability:
    """How often answers are right that are given with some probability.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    sure = found.probabilities.max(axis=1)
    right = found.answers == found.labels
    bins = np.clip(np.ceil(sure * BINS).astype(int) - 1, 0, BINS - 1)
    count = np.bincount(bins, minlength=BINS)
    there = count > 0
    confidence, accuracy = (np.bincount(bins, values, BINS)[there] / count[there] for values in (sure, right))
    count = count[there]
    return Reliability(confidence, accuracy, count, float((count * abs(confidence - accuracy)).sum() / count.sum()))


def prediction_rows(paths: list[str], labels: list[str], classes: list[str], probabilities: np.ndarray) -> list[list]:
    """The rows of the CSV file, its header first: as of `task=predict`, with the label."""
    header = ["path", "label", "class", *(f"p_{name}" for name in classes)]
    winners = (classes[i] for i in probabilities.argmax(axis=1))
    shown = ([f"{p:.9g}" for p in row] for row in probabilities.tolist())  # fp32 to the last bit: no ties of rounding
    return [header, *([*row[:3], *row[3]] for row in zip(paths, labels, winners, shown, strict=True))]


def read_predictions(path: Path) -> JudgedImages | None:
    """What `prediction_rows` has made of images; None where there are none.

    Raises:
        ValueError: naming a file that is damaged.
    """
    try:
        with path.open(newline="", errors="surrogateescape") as file:  # a path may be any bytes
            header, *rows = csv.reader(file)
        classes = [name.removeprefix("p_") for name in header if name.startswith("p_")]
        first, label = header.index(f"p_{classes[0]}"), header.index("label")
        probabilities = np.array([row[first : first + len(classes)] for row in rows], dtype=float)
        labels = np.array([classes.index(row[label]) for row in rows], dtype=int)
        if not ((probabilities >= 0) & (probabilities < 1.001)).all():
            raise ValueError("a probability is not between 0 and 1")
    except (ValueError, IndexError, csv.Error) as error:
        raise ValueError(f"{path} is damaged: {error!r:.200}; make it again with task=validate run=...") from error
    return JudgedImages([row[0] for row in rows], labels, probabilities, classes, path) if rows else None
