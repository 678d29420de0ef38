"""What becomes of a pixel's value: brightness, contrast and colour, as a table of 256 values.

A table takes the same time whatever it does. Legend: h height, w width, c channels; images are h w c uint8.
"""

import torch
from torch import Tensor

SAMPLED = 15  # the mean that contrast keeps is that of every so many pixels, down and across


def tone_table(
    image: Tensor, *, brightness: float = 1.0, contrast: float = 1.0, colour: list[float] | None = None
) -> Tensor:
    """The value that each of 256 becomes: times its channel's factor, then brighter, then moved from the mean.

    Args:
        image: h w c uint8, of which contrast takes the mean.
        brightness: a factor.
        contrast: a factor on the distance from the mean over all channels.
        colour: a factor a channel; None: 1 for all.

    Returns:
        1 256 uint8, on the image's device; c 256 with `colour`.
    """
    factors = torch.tensor(colour or [1.0])[:, None] * brightness
    table = (factors * torch.arange(256.0)).clamp(0, 255).to(image.device, non_blocking=True)
    if contrast != 1:
        # The device computes it, and the host does not wait.
        sample = image[::SAMPLED, ::SAMPLED]
        mean = (sample.float() * factors.to(image.device, non_blocking=True).flatten()).clamp_(0, 255).mean()
        table = (table - mean) * contrast + mean
    return table.clamp(0, 255).round().to(torch.uint8)
