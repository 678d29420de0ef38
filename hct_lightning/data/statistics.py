"""Mean and deviation per channel, from the images as the network sees them."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from hct_lightning.data.loading import Images


def channel_statistics(images: Images, workers: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel, of pixels scaled to 0..1.

    From a histogram of whole numbers: the same whatever the order and the number of workers. Images
    that can't be read, where they are skipped, don't count.
    """
    channels = images.reader.shape[2]

    def histogram(i: int) -> np.ndarray:
        """channels 256: how often each value occurs."""
        image, _, index = images[i]
        counted = index >= 0
        return np.stack(
            [np.bincount(channel.numpy().ravel(), minlength=256) * counted for channel in image]
        )

    with ThreadPoolExecutor(max(1, workers)) as pool:
        counts = sum(pool.map(histogram, range(len(images))), np.zeros((channels, 256), np.int64))
    total = counts.sum(axis=1)
    values = np.arange(256) / 255
    mean = counts @ values / total
    variance = counts @ values**2 / total - mean**2
    return mean.tolist(), np.sqrt(np.maximum(variance, 1e-12)).tolist()
