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
    scale: Tensor | float = brightness
    if colour is not None:
        scale = (torch.tensor(colour) * brightness).to(image.device, non_blocking=True)
    steps = torch.arange(256.0, device=image.device)
    table = (torch.outer(scale, steps) if isinstance(scale, Tensor) else steps * scale).clamp_(0, 255)
    if contrast != 1:
        # The device computes it, and the host does not wait.
        mean = (image[::SAMPLED, ::SAMPLED].float() * scale).clamp_(0, 255).mean()
        table = (table - mean).mul_(contrast).add_(mean).clamp_(0, 255)
    return table.round_().to(torch.uint8).view(-1, 256)
