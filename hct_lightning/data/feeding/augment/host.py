"""The operations of `device` by OpenCV, on the CPU: in an eighth of PyTorch's time to two thirds of it.

OpenCV takes as many threads as PyTorch has where it is called. The number is the whole process's, but nothing else here
uses OpenCV. Legend: h height, w width, c channels; images are h w c uint8.
"""

import math

import cv2
import numpy as np
import torch
from torch import Tensor

from hct_lightning.data.feeding.augment.damage import draw_noise
from hct_lightning.data.feeding.augment.geometry import Matrix, seen
from hct_lightning.data.reading.geometry import Size

MOST_CHANNELS = 128  # of OpenCV
# Earlier ones resample with weights of 5 bits; another package may have put one in the place of ours.
FINE = int(cv2.__version__.split(".")[0]) >= 5


def use_threads_of_torch() -> None:
    """Takes less than a microsecond; threads without work sleep."""
    cv2.setNumThreads(torch.get_num_threads())


def resample(image: Tensor, centre: tuple[float, float], matrix: Matrix, size: Size) -> Tensor:
    """As `device.resample`; values differ by one where they lie half-way between two."""
    height, width = size
    middle = (height - 1) / 2, (width - 1) / 2
    shape = image.shape[0], image.shape[1]
    rows, columns, _ = seen(shape, centre, matrix, (-middle[0], middle[0]), middle[1])
    # Of this part alone: float32 tells fewer places apart far from the origin.
    part = _pixels(image[rows.start : rows.stop, columns.start : columns.stop])
    lines = []
    for axis, taken in ((1, columns), (0, rows)):
        down, right = matrix[axis]
        lines.append((right, down, centre[axis] - taken.start - right * middle[1] - down * middle[0]))

    def warp(pixels: np.ndarray) -> np.ndarray:
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(pixels, np.array(lines), (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT_101)

    channels = image.shape[2]
    if channels == 3:  # with a fourth it takes two thirds of the time
        out = cv2.cvtColor(warp(cv2.cvtColor(part, cv2.COLOR_RGB2RGBA)), cv2.COLOR_RGBA2RGB)
    elif channels in (1, 4):
        out = warp(part)
    else:  # of which OpenCV resamples several at once with weights of 5 bits
        out = cv2.merge([warp(plane) for plane in cv2.split(part)])
    return _tensor(out, channels)


def look_up(image: Tensor, table: Tensor, place: Tensor) -> None:
    """As `device.look_up`."""
    straight = _pixels(place) if place.is_contiguous() else None
    found = cv2.LUT(_pixels(image), table.T[None].numpy(), dst=straight)
    if straight is None:
        place.copy_(_tensor(found, image.shape[2]))


def blur(image: Tensor, passes: int) -> None:
    """As `device.blur`; values differ by one where they lie half-way between two."""
    weights = np.array([math.comb(2 * passes, n) for n in range(2 * passes + 1)]) / 4**passes
    pixels = _pixels(image)
    blurred = cv2.sepFilter2D(pixels, -1, weights, weights, dst=pixels if image.is_contiguous() else None)
    if blurred is not pixels:
        image.copy_(_tensor(blurred, image.shape[2]))


def add_noise(image: Tensor, deviation: float, seed: int) -> None:
    """As `device.add_noise`."""
    table, places = draw_noise(image, deviation, seed)
    # What it adds and what it takes away, as bytes: sums and differences of bytes are limited to 0..255 and fast.
    tables = (half.clamp(0, 255).byte().numpy() for half in (table, -table))
    more, less = (cv2.LUT(places.flatten(1).numpy(), half) for half in tables)
    whole = image.contiguous()
    values = whole.flatten(1).numpy()
    # Bands are NumPy's: PyTorch lets other threads in at each operation, and with hundreds of them threads wait in turn.
    for number, top in enumerate(range(0, len(values), len(places))):
        band = values[top : top + len(places)]
        added, taken = (less, more) if number % 2 else (more, less)
        for change, by in ((cv2.add, added), (cv2.subtract, taken)):
            change(band, by[: len(band)], dst=band)
    if whole is not image:
        image.copy_(whole)


def _pixels(image: Tensor) -> np.ndarray:
    """h w c -> h w for one channel, h w c for more; the same memory."""
    return image.numpy()[..., 0] if image.shape[2] == 1 else image.numpy()


def _tensor(pixels: np.ndarray, channels: int) -> Tensor:
    """h w for one channel, h w c for more -> h w c; the same memory."""
    return torch.from_numpy(pixels).view(*pixels.shape[:2], channels)
