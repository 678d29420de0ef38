"""Resampling, tones, blur and noise by PyTorch, on any device; `host` has the same operations by OpenCV.

Legend: h height, w width, c channels; images are h w c uint8, as they lie in memory.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from hct_lightning.data.feeding.augment.damage import draw_noise
from hct_lightning.data.feeding.augment.geometry import Matrix, seen, window
from hct_lightning.data.reading.geometry import Size

STRIPS = (
    8  # that an image is resampled and blurred in, so that floats and wide integers are there of a part of it alone
)


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
        ends = top - (height - 1) / 2, bottom - (height + 1) / 2
        rows, columns, inside = seen((image.shape[0], image.shape[1]), centre, matrix, ends, (width - 1) / 2)
        part = image[rows.start : rows.stop, columns.start : columns.stop].permute(2, 0, 1)[None].float()
        ways = []
        # Along each axis apart, then both added as one complex number: PyTorch's affine_grid takes ten times as long.
        for axis, taken in ((1, columns), (0, rows)):
            line, at = matrix[axis], centre[axis] - taken.start
            scale = 2 / max(1, len(taken) - 1)
            ways.append(((line[0] * down + at) * scale - 1, line[1] * scale * right))
        grid = torch.view_as_real(torch.add(*(torch.complex(x, y) for x, y in zip(*ways, strict=True))))[None]
        # Where nothing is mirrored, not to ask saves a third of the time.
        found = F.grid_sample(part, grid, padding_mode="border" if inside else "reflection", align_corners=True)
        # To the nearest, for what is converted is cut off. Straight to uint8 takes three times as long.
        values = found[0].add_(0.5).to(torch.int32)
        for channel, its in zip(out[top:bottom].unbind(2), values, strict=True):
            channel.copy_(its)
    return out


def look_up(image: Tensor, table: Tensor, place: Tensor) -> None:
    """Replaces each value by that of a table.

    Args:
        image: h w c uint8.
        table: 1 256 uint8, or c 256 for a table a channel.
        place: h w c uint8, for the result; may be the image.
    """
    places = image.int()
    if len(table) > 1:
        places += 256 * torch.arange(len(table), device=image.device, dtype=torch.int32)
    place.copy_(table.flatten().index_select(0, places.flatten()).view(image.shape))


def blur(image: Tensor, passes: int) -> None:
    """Each pixel takes a quarter of its neighbours' values and half of its own, down and across; mirrored at the ends.

    Args:
        image: h w c uint8, changed in place.
        passes: how often, 1 to 3; rounded once. The deviation is sqrt(passes / 2) pixels.
    """
    height, width = image.shape[:2]
    wide = window(image, (-passes, -passes), (height + 2 * passes, width + 2 * passes))
    strip = max(1, -(-height // STRIPS))
    for top, place in zip(range(0, height, strip), image.split(strip), strict=True):
        sums = wide[top : top + len(place) + 2 * passes].int()
        for dim in (0, 1) * passes:
            length = sums.shape[dim] - 2
            own = sums.narrow(dim, 1, length)
            sums = (sums.narrow(dim, 0, length) + sums.narrow(dim, 2, length)).add_(own, alpha=2)
        shift = 4 * passes  # the weights of a pass add up to 4 along each of two axes
        place.copy_(sums.add_(1 << (shift - 1)).bitwise_right_shift_(shift))


def add_noise(image: Tensor, deviation: float, seed: int) -> None:
    """Adds normal noise, see `draw_noise`.

    Args:
        image: h w c uint8, changed in place.
        deviation: of values of 0..255.
        seed: of the noise.
    """
    table, places = draw_noise(image, deviation, seed)
    noise = table.index_select(0, places.flatten().int()).view(places.shape)
    for number, band in enumerate(image.split(len(noise))):
        band.copy_(torch.add(band, noise[: len(band)], alpha=-1 if number % 2 else 1).clamp_(0, 255))
