"""An image larger than memory through HCT, exactly.

Its convolutions run tile by tile. Its attention is linear: the sums over all positions are gathered part by part
before any position reads them. So the logits are those of the whole image, to rounding, and what is held is a map
at a thirty-second of the image's height and width. Every part is run by the modules of hct.py.

Legend: b batch (1 here), c channels, h height, w width.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from hct_lightning.models.hct import HCT, AttentionConvBlock, as_tokens
from hct_lightning.models.pixels import FromPixels
from hct_lightning.models.tiles import Progress, Tiled, reach_of

POSITIONS_AT_ONCE = 2**17  # of a map that is held


class Source(Protocol):
    """An image that is read by region."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        ...

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """The pixels of a region, h w c uint8."""
        ...


class StreamedHCT:
    """Gives the logits of an image that is read tile by tile.

    Args:
        network: HCT on pixels, in evaluation. It is used as it is, in the caller's precision.
        tile: height and width, in pixels, of what a tile stands for; its margin of 200 pixels or so comes on top.

    Raises:
        ValueError: where the network is no HCT, or is in training.
    """

    def __init__(self, network: FromPixels, *, tile: int = 4096) -> None:
        if not isinstance(network.network, HCT):
            raise ValueError(f"{type(network.network).__name__} can't be streamed; HCT can")
        if network.training:
            raise ValueError("streaming is for evaluation: call eval() of the network first")
        self.pixels, self.hct, self.tile = network, network.network, tile

    @torch.inference_mode()
    def __call__(self, source: Source, progress: Progress | None = None) -> Tensor:
        """The logits, 1 num_classes.

        Args:
            source: of at least 128 x 128 pixels, with the network's number of channels.
            progress: is called with the number of tiles that are done and the number of all.
        """
        device = self.pixels.scale.device
        h, w, _ = source.shape
        if min(h, w) < 128:
            raise ValueError(f"an image of {h}x{w} is too small: HCT needs 128")

        def read(rows: slice, columns: slice) -> Tensor:
            region = torch.from_numpy(source.read(rows.start, rows.stop, columns.start, columns.stop))
            return region.permute(2, 0, 1)[None].to(device)

        x = self.pixels.first_stages(read, (h, w), self.tile).joined(progress)
        for stage in self.hct.stages[self.hct.local_stages :]:
            for block in cast(nn.Sequential, stage):
                x = _block(block, x)
        totals = [self.hct.act(self.hct.norm(rows)).sum(dim=(2, 3), dtype=torch.float32) for rows in _by_rows(x)]
        mean = torch.stack(totals).sum(dim=0) / x[0, 0].numel()
        return self.hct.forward_head(mean[..., None, None])


def _block(block: nn.Module, x: Tensor) -> Tensor:
    """A block of the later stages on a whole map, some rows at a time."""
    run: Callable[[Tensor], Tensor] = block
    if isinstance(block, AttentionConvBlock):
        run = partial(block, sums=_attention_sums(block, x))
    reach, (h, w) = reach_of(block), x.shape[2:]
    tile = max(1, POSITIONS_AT_ONCE // w // reach.stride), reach.length(w)
    return Tiled(run, reach, lambda rows, columns: x[:, :, rows, columns], (h, w), tile).joined()


def _attention_sums(block: AttentionConvBlock, x: Tensor) -> Tensor:
    """The sums of a block's attention over a whole map."""

    def parts() -> Iterator[Tensor]:
        return (as_tokens(block.act1(block.bn1(rows))) for rows in _by_rows(x))

    peak = None
    if block.attn.kernel == "softmax":
        peak = torch.stack([block.attn.key_peak(part) for part in parts()]).amax(dim=0)
    return torch.stack([block.attn.sums(part, peak) for part in parts()]).sum(dim=0)


def _by_rows(x: Tensor) -> tuple[Tensor, ...]:
    return x.split(max(1, POSITIONS_AT_ONCE // x.shape[3]), dim=2)
