"""Where an image is looked at: windows at full resolution, mirrored ends, small rotations and zooms.

Legend: h height, w width, c channels; images are h w c uint8, as they lie in memory.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hct_lightning.data.reading.geometry import Size

STRIPS = 8  # that an output is resampled in, so that floats are there of a part of it alone

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


def resample(image: Tensor, centre: tuple[float, float], matrix: Matrix, size: Size) -> Tensor:
    """What is around `centre` of the image, bilinear, mirrored at its ends.

    Args:
        image: h w c uint8.
        centre: the place (down, right) that comes to stand in the middle, in pixels; fractions count.
        matrix: see `linear`.
        size: of the result.
    """
    height, width = size
    out = image.new_empty((height, width, image.shape[2]))
    right = torch.arange(width, device=image.device, dtype=torch.float32) - (width - 1) / 2
    strip = max(1, -(-height // STRIPS))
    for top in range(0, height, strip):
        bottom = min(top + strip, height)
        down = torch.arange(top, bottom, device=image.device, dtype=torch.float32)[:, None] - (height - 1) / 2
        above, beside = (
            _reach(centre[axis], matrix[axis], (top - (height - 1) / 2, bottom - (height + 1) / 2), (width - 1) / 2)
            for axis in (0, 1)
        )
        rows, columns = (_part(image.shape[axis], *reach) for axis, reach in enumerate((above, beside)))
        part = image[rows.start : rows.stop, columns.start : columns.stop].permute(2, 0, 1)[None].float()
        ways = []
        # Along each axis apart, then both added as one complex number: PyTorch's affine_grid takes ten times as long.
        for axis, taken in ((1, columns), (0, rows)):
            line, at = matrix[axis], centre[axis] - taken.start
            scale = 2 / max(1, len(taken) - 1)
            ways.append(((line[0] * down + at) * scale - 1, line[1] * scale * right))
        grid = torch.view_as_real(torch.add(*(torch.complex(x, y) for x, y in zip(*ways, strict=True))))[None]
        ends = image.shape[0] - 1, image.shape[1] - 1
        inside = min(above[0], beside[0]) >= 0 and above[1] <= ends[0] and beside[1] <= ends[1]
        # Where nothing is mirrored, not to ask saves a third of the time.
        seen = F.grid_sample(part, grid, padding_mode="border" if inside else "reflection", align_corners=True)
        # To the nearest, for what is converted is cut off. Straight to uint8 takes three times as long.
        values = seen[0].add_(0.5).to(torch.int32)
        for channel, its in zip(out[top:bottom].unbind(2), values, strict=True):
            channel.copy_(its)
    return out


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
