"""Where an image is looked at: windows at full resolution, mirrored ends, small rotations and zooms.

Legend: h height, w width, c channels; images are h w c uint8, as they lie in memory.
"""

import math

import torch
from torch import Tensor

from hct_lightning.data.reading.geometry import Size

Matrix = tuple[tuple[float, float], tuple[float, float]]


def window(image: Tensor, corner: tuple[int, int], size: Size) -> Tensor:
    """The part of `size` whose top left pixel is at `corner`; mirrored at the image's ends. A view where it is inside."""
    for dim in (0, 1):
        image = _along(image, dim, corner[dim], size[dim])
    return image


def _along(image: Tensor, dim: int, start: int, length: int) -> Tensor:
    size = image.shape[dim]
    before, after = max(0, -start), max(0, start + length - size)
    middle = length - before - after
    if not before and not after:
        return image.narrow(dim, start, length)
    if middle < 1 or max(before, after) >= size:  # mirrored more than once
        return image.index_select(dim, mirrored(length, start, size, image.device))
    parts = [image.narrow(dim, max(0, start), middle)]
    # Slices turned round take a fiftieth of the time that looking up each pixel does.
    if before:
        parts.insert(0, image.narrow(dim, 1, before).flip(dim))
    if after:
        parts.append(image.narrow(dim, size - 1 - after, after).flip(dim))
    return torch.cat(parts, dim)


def mirrored(length: int, start: int, size: int, device: torch.device | None = None) -> Tensor:
    """The indices start..start+length-1 of `size` places, those beyond an end mirrored at it."""
    period = max(1, 2 * (size - 1))
    places = (torch.arange(length, device=device) + start).abs() % period
    return torch.minimum(places, period - places)


def linear(zoom: tuple[float, float], degrees: float) -> Matrix:
    """From a step in the result (down, right) to the step in the image that it stands for.

    Args:
        zoom: factors by which the image is enlarged, (down, right).
        degrees: that it is turned by, clockwise.
    """
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (cos / zoom[0], -sin / zoom[0]), (sin / zoom[1], cos / zoom[1])


def flipped(matrix: Matrix, flips: tuple[bool, bool]) -> Matrix:
    """The matrix of a result that is flipped from top to bottom, from left to right, or both."""
    down, right = (-1 if flip else 1 for flip in flips)
    (a, b), (c, d) = matrix
    return (a * down, b * right), (c * down, d * right)


def seen(
    shape: Size, centre: tuple[float, float], matrix: Matrix, down: tuple[float, float], across: float
) -> tuple[range, range, bool]:
    """The rows and columns of an image that a strip of the result is made from, and whether nothing of it is mirrored.

    Args:
        shape: of the image.
        centre: the place (down, right) that comes to stand in the middle of the result.
        matrix: see `linear`.
        down: from the middle to the strip's first row and its last.
        across: from the middle to the strip's ends.
    """
    (above, below), (left, right) = (_reach(centre[axis], matrix[axis], down, across) for axis in (0, 1))
    inside = min(above, left) >= 0 and below <= shape[0] - 1 and right <= shape[1] - 1
    return _part(shape[0], above, below), _part(shape[1], left, right), inside


def _reach(centre: float, line: tuple[float, float], down: tuple[float, float], right: float) -> tuple[float, float]:
    """The least and the greatest place along an axis that a strip of the result is made from."""
    ends = [centre + line[0] * y + line[1] * x for y in down for x in (-right, right)]
    return min(ends), max(ends)


def _part(length: int, least: float, most: float) -> range:
    """What of an axis of `length` pixels is between two places, or mirrored to there."""
    if least < 0:
        least, most = 0, max(most, -least)
    if most > length - 1:
        least, most = min(least, 2 * (length - 1) - most), length - 1
    return range(max(0, math.floor(least) - 1), min(length, math.ceil(most) + 2))
