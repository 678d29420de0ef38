"""How far the classes are told apart by what is no detail of an image: size, file, mean, a reduced image, a table's tags.

Where such a thing gives the class, a network's accuracy does not show that it has seen more.
"""

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hct_lightning.data.reading.geometry import Size
from hct_lightning.data.statistics import mean_and_deviation

log = logging.getLogger(__name__)

REDUCED = 32  # pixels a side
MOST = 2000  # images of a split at most; of more every second, third, ...


class Glimpse(NamedTuple):
    """What is known of an image without its detail.

    label: its class.
    size: (height, width) of the file.
    bytes: of the file; None where there is none of its own, as in a store.
    suffix: of the file's name, which says its format.
    counts: c 256, how often each value occurs in what the network sees.
    reduced: c `REDUCED` `REDUCED` uint8, the same reduced.
    tags: what a table says of it.
    """

    label: int
    size: Size
    bytes: int | None
    suffix: str
    counts: np.ndarray
    reduced: np.ndarray
    tags: Mapping[str, str]


def accuracies(train: Sequence[Glimpse], valid: Sequence[Glimpse]) -> list[dict[str, Any]]:
    """A row for each kind of knowledge: accuracy on the validation images of three classifiers that have nothing else.

    All are scikit-learn's, learn from the training images, and have fixed seeds. Who knows nothing always says the class
    that most training images have. Left out are tags of which no validation image has one that a training image has,
    and what is the same in all training images. Without scikit-learn, or a second class, there are no rows.
    """
    try:
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.linear_model import LogisticRegression
        from sklearn.neighbors import NearestCentroid
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError:
        log.info("what size, file and mean tell of the class is left out; it takes pip install 'hct-lightning[data]'")
        return []
    train, valid = (images[:: math.ceil(len(images) / MOST) or 1] for images in (train, valid))
    labels, expected = (np.array([image.label for image in images]) for images in (train, valid))
    if not valid or len(set(labels)) < 2:
        return []
    classifiers = {
        "nearest centroid": NearestCentroid(),
        "logistic regression": LogisticRegression(max_iter=1000),
        "random forest": RandomForestClassifier(random_state=0),
    }
    largest = _mean(expected == np.bincount(labels).argmax())
    rows: list[dict[str, Any]] = [{"knows": "nothing", **dict.fromkeys(classifiers, largest)}]
    for knows, (learned, asked) in _features(train, valid).items():
        row: dict[str, Any] = {"knows": knows}
        for name, classifier in classifiers.items():
            with warnings.catch_warnings():  # of a value that is the same in all images, or that has not converged
                warnings.simplefilter("ignore")
                fitted = make_pipeline(StandardScaler(), classifier).fit(learned, labels)
            row[name] = _mean(fitted.predict(asked) == expected)
        rows.append(row)
    return rows


def _features(train: Sequence[Glimpse], valid: Sequence[Glimpse]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """n f of the training and m f of the validation images, by what they stand for."""
    both = [*train, *valid]
    sizes = np.log([image.size for image in both])
    found = {"width and height": sizes}
    if all(image.bytes for image in both):
        found["size and bytes of the file"] = np.c_[sizes, np.log([image.bytes or 1 for image in both])]
        found["the same and the file's format"] = np.c_[
            found["size and bytes of the file"], _one_hot([image.suffix for image in both])
        ]
    found["mean and deviation"] = np.array([np.ravel(mean_and_deviation(image.counts)) for image in both])
    found[f"reduced to {REDUCED}x{REDUCED}"] = np.array([image.reduced.ravel() for image in both], dtype=np.float32)
    for name in sorted(set.intersection(*(set(image.tags) for image in both))):
        if {image.tags[name] for image in train} & {image.tags[name] for image in valid}:
            found[f"the tag {name}"] = _one_hot([image.tags[name] for image in both])
    parts = {name: (values[: len(train)], values[len(train) :]) for name, values in found.items()}
    return {name: (learned, asked) for name, (learned, asked) in parts.items() if np.ptp(learned, axis=0).any()}


def _one_hot(values: Sequence[str]) -> np.ndarray:
    _, which = np.unique(values, return_inverse=True)
    return np.eye(which.max() + 1, dtype=np.float32)[which]


def _mean(right: np.ndarray) -> float:
    return float(right.mean())
