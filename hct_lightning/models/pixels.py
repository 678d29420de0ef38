"""From uint8 pixels to the floats a network takes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class FromPixels(nn.Module):
    """Puts the normalisation of pixels in front of a network.

    b c h w uint8 -> whatever `network` gives for (pixels / 255 - mean) / std. Images stay uint8 until they are on
    the device; the statistics are buffers and travel with the weights.

    Args:
        network: takes normalised floats, b c h w.
        mean: per channel, of pixels scaled to 0..1.
        std: likewise.
    """

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std):
            raise ValueError(f"mean has {len(mean)} channels, std has {len(std)}")
        if min(std) <= 0:
            raise ValueError(f"std={list(std)}: every channel's deviation must be above 0")
        self.network = network
        # One multiply-add on pixels of 0..255, in double so that it rounds once.
        std64 = torch.tensor(std, dtype=torch.float64)
        scale = (1 / (255 * std64)).float()
        offset = (-torch.tensor(mean, dtype=torch.float64) / std64).float()
        self.register_buffer("scale", scale.view(1, -1, 1, 1))
        self.register_buffer("offset", offset.view(1, -1, 1, 1))

    def normalise(self, pixels: Tensor) -> Tensor:
        """b c h w uint8 -> floats in the network's precision, memory format kept."""
        dtype = self.scale.dtype
        if torch.is_autocast_enabled(pixels.device.type):
            dtype = torch.get_autocast_dtype(pixels.device.type)
        return torch.addcmul(self.offset.to(dtype), pixels.to(dtype), self.scale.to(dtype))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network(self.normalise(pixels))
