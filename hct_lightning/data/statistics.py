"""Mean and deviation per channel, from the images as the network sees them."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from torch import Tensor

from hct_lightning.data.feeding.images import Images


def value_counts(image: Tensor) -> np.ndarray:
    """c h w uint8 -> c 256: how often each value occurs."""
    return np.stack([np.bincount(c.numpy().ravel(), minlength=256) for c in image])


def mean_and_deviation(counts: np.ndarray) -> tuple[list[float], list[float]]:
    """c 256 -> mean and standard deviation per channel, of values scaled to 0..1."""
    total = counts.sum(axis=1)
    values = np.arange(256) / 255
    mean = counts @ values / total
    variance = counts @ values**2 / total - mean**2
    return mean.tolist(), np.sqrt(np.maximum(variance, 1e-12)).tolist()


def channel_statistics(images: Images, workers: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel, of pixels scaled to 0..1.

    From counts of whole numbers: the same whatever the order and the number of workers. Images that
    can't be read, where they are skipped, don't count.

    Raises:
        ValueError: when none can be read.
    """

    def look(i: int) -> np.ndarray:
        image, _, index = images[i]
        return value_counts(image) * (index >= 0)

    with ThreadPoolExecutor(max(1, workers)) as pool:
        counts = np.sum(list(pool.map(look, range(len(images)))), axis=0)
    if not counts.sum():
        raise ValueError(f"none of the {len(images)} images to measure can be read")
    return mean_and_deviation(counts)
