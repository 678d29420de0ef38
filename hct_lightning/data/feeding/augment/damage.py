"""What scanners and files do to an image: noise, as it is drawn, and JPEG; and a part of it that is missing.

The last two work in the image's place. Legend: h height, w width, c channels; images are h w c uint8.
"""

import math

import torch
from torch import Tensor

DRAWN = 2**18  # values of noise for a large image: drawing takes long
STRIPS = 8  # that JPEG goes by, to save memory


def draw_noise(image: Tensor, deviation: float, seed: int) -> tuple[Tensor, Tensor]:
    """Normal noise, cut off at 2.9 deviations, for the first rows of an image: a table, and its places.

    The next rows have the same noise with the other sign, and so on, in bands of `DRAWN` values at least.

    A byte that is drawn stands for one of 256 quantiles, which takes a fifth of the time of drawing floats.

    Args:
        image: h w c.
        deviation: of values of 0..255.
        seed: of a generator on the image's device, whose draws are its own.

    Returns:
        256 int16 and rows w c uint8, both on the image's device.
    """
    bands = max(1, image.numel() // DRAWN)
    shape = max(1, -(-image.shape[0] // bands)), *image.shape[1:]
    generator = torch.Generator(image.device).manual_seed(seed)
    draws = torch.empty(-(-math.prod(shape) // 8), dtype=torch.int64, device=image.device)
    places = draws.random_(-(2**63), None, generator=generator).view(torch.uint8)[: math.prod(shape)].view(shape)
    table = (_QUANTILES * deviation).round().to(torch.int16)
    return table.to(image.device, non_blocking=True), places


_QUANTILES = torch.special.ndtri((torch.arange(256) + 0.5) / 256)


def compress(image: Tensor, quality: int) -> None:
    """What JPEG loses at a quality, of each channel as of luminance; blocks of 8x8 pixels, as far as they are whole.

    torchvision's `jpeg` works on the host alone, and a device would be waited for.
    """
    height, width = (side // 8 * 8 for side in image.shape[:2])
    if not height or not width:
        return
    cosines, steps = _tables(image.device)
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    steps = ((steps * scale + 50) / 100).floor().clamp(1, 255)
    for channel in image[:height, :width].unbind(2):
        for band in channel.split(max(8, height // STRIPS // 8 * 8)):
            blocks = band.reshape(-1, 8, width // 8, 8).transpose(1, 2).float().sub_(128)
            found = cosines @ blocks @ cosines.T
            found = found.div_(steps).round_().mul_(steps)
            blocks = (cosines.T @ found @ cosines).add_(128.5).clamp_(0, 255.4)
            band.copy_(blocks.transpose(1, 2).reshape(band.shape))


def _tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """The discrete cosine transform of 8 values, and the steps of luminance at quality 50 (ITU T.81, table K.1)."""
    place, frequency = torch.arange(8.0), torch.arange(8.0)[:, None]
    cosines = torch.cos((2 * place + 1) * frequency * torch.pi / 16) / 2
    cosines[0] /= 2**0.5
    steps = [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
    steps = torch.tensor(steps, dtype=torch.float32)
    return cosines.to(device, non_blocking=True), steps.to(device, non_blocking=True)


def erase(image: Tensor, place: tuple[float, float], size: tuple[float, float], value: int) -> None:
    """A box of one value.

    Args:
        image: h w c uint8.
        place: of its top left corner, (down, right), as shares of the way that there is.
        size: its sides, as shares of the image's.
        value: 0..255.
    """
    sides = [max(1, round(share * side)) for share, side in zip(size, image.shape[:2], strict=True)]
    top, left = (round(at * (side - own)) for at, side, own in zip(place, image.shape[:2], sides, strict=True))
    image[top : top + sides[0], left : left + sides[1]] = value
