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
        self.register_buffer("scale", scale)
        self.register_buffer("offset", offset)

    def normalise(self, pixels: Tensor) -> Tensor:
        """b c h w uint8 -> floats in the network's precision, channels_last."""
        dtype = self.scale.dtype
        if torch.is_autocast_enabled(pixels.device.type):
            dtype = torch.get_autocast_dtype(pixels.device.type)
        # Over whole rows of interleaved pixels: broadcasting over three channels innermost, as
        # channels_last would have it, can't be vectorised and takes ten times as long.
        b, c, h, w = pixels.shape
        rows = pixels.permute(0, 2, 3, 1).reshape(b, h, w * c).to(dtype)
        scale, offset = self.scale.to(dtype).repeat(w), self.offset.to(dtype).repeat(w)
        return torch.addcmul(offset, rows, scale).view(b, h, w, c).permute(0, 3, 1, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network(self.normalise(pixels))
