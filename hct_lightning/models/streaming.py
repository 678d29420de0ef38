"""An image larger than memory through HCT, exactly.

Its convolutions run tile by tile. Its attention is linear: the sums over all positions are gathered part by part
before any position reads them. So the logits are those of the whole image, to rounding, and what is held is a map
at a thirty-second of the image's height and width. Every part is run by the modules of hct.py.

Legend: b batch (1 here), c channels, h height, w width.
"""

from collections.abc import Callable
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from hct_lightning.models.hct import HCT, AttentionConvBlock, as_tokens, check_size
from hct_lightning.models.pixels import FromPixels, read_region
from hct_lightning.models.tiles import Kept, Progress, Source, Tiled, reach_of

VALUES_AT_ONCE = 2**22  # of a map that is held; attention's random features are a few times as many


class StreamedHCT:
    """Gives the logits of an image that is read tile by tile.

    Args:
        network: HCT on pixels, in evaluation. It is used as it is, in the caller's precision.
        tile: height and width, in pixels, of what a tile stands for; its margin of 200 pixels or so comes on top.
        workers: tiles that are read and computed at once.
        background: tiles whose pixels, a channel, are within so many of 255 of one another are taken for uniform and
            not computed; exact with 0. None computes all.
        first: computes what the network's first stages would, 1 c h w uint8 -> 1 c' h' w', by so many callers at once
            as there are workers: those of an artifact, say.

    Raises:
        ValueError: where the network is no HCT, or is in training.
    """

    def __init__(
        self,
        network: FromPixels,
        *,
        tile: int = 4096,
        workers: int = 1,
        background: int | None = None,
        first: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if not isinstance(network.network, HCT):
            raise ValueError(f"{type(network.network).__name__} can't be streamed; HCT can")
        if network.training:
            raise ValueError("streaming is for evaluation: call eval() of the network first")
        self.pixels, self.hct, self.tile = network, network.network, tile
        self.workers, self.background, self.first = workers, background, first

    @torch.inference_mode()
    def __call__(self, source: Source, progress: Progress | None = None, kept: Kept | None = None) -> Tensor:
        """The logits, 1 num_classes.

        Args:
            source: of at least 128 x 128 pixels, with the network's number of channels.
            progress: is called with the number of tiles that are done and the number of all.
            kept: holds what tiles gave, and goes on with it.
        """
        return self.logits(self.first_stages(source, progress, kept))

    def first_stages(self, source: Source, progress: Progress | None = None, kept: Kept | None = None) -> Tensor:
        """The map after the network's `local_stages`, 1 c h w; arguments are those of `__call__`."""
        h, w, _ = source.shape
        check_size(h, w)
        read = partial(read_region, source, self.pixels.scale.device)
        options = {"workers": self.workers, "background": self.background, "instead": self.first}
        local = self.pixels.first_stages(read, (h, w), self.tile, **options)
        return local.joined(progress, kept)

    def logits(self, x: Tensor) -> Tensor:
        """Those of the map of `first_stages`."""
        for block in self.blocks(self.hct.local_stages):
            x = through_block(block, x)
        return self.head(x)

    def blocks(self, start: int, stop: int | None = None) -> list[nn.Module]:
        """The blocks of stages, in order; to the last stage where none is named."""
        return [block for stage in list(self.hct.stages)[start:stop] for block in cast(nn.Sequential, stage)]

    def head(self, x: Tensor) -> Tensor:
        """The logits of the last map."""
        totals = [self.hct.act(self.hct.norm(rows)).sum(dim=(2, 3), dtype=torch.float32) for rows in by_rows(x)]
        mean = torch.stack(totals).sum(dim=0) / x[0, 0].numel()
        return self.hct.forward_head(mean[..., None, None])


class StreamsLargeImages(nn.Module):
    """Lets images through a network whole, and large ones tile by tile.

    b c h w uint8, or one image that is read by region -> b classes logits.

    Args:
        network: HCT on pixels, in evaluation.
        most_pixels: of an image that goes through as a whole.
        stream: gives the logits of one that is read by region.
    """

    def __init__(self, network: FromPixels, most_pixels: int, stream: Callable[[Source], Tensor]) -> None:
        super().__init__()
        self.network, self.most_pixels, self.stream = network, most_pixels, stream

    def forward(self, images: Tensor | Source) -> Tensor:
        if not isinstance(images, Tensor):
            return self.stream(images)
        if images.shape[2] * images.shape[3] <= self.most_pixels:
            return self.network(images)
        return torch.cat([self.stream(InMemory(image)) for image in images])


class InMemory:
    """An image in memory, c h w uint8, as a source."""

    def __init__(self, image: Tensor) -> None:
        self._image = image.permute(1, 2, 0)
        self.shape = (self._image.shape[0], self._image.shape[1], self._image.shape[2])

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        return self._image[y0:y1, x0:x1].cpu().numpy()


def through_block(block: nn.Module, x: Tensor) -> Tensor:
    """A block of the later stages on a whole map, some rows at a time."""
    return in_parts(block, x, attention_sums(block, x)).joined()


def in_parts(block: nn.Module, x: Tensor, sums: Tensor | None) -> Tiled:
    """A block on a whole map, divided into rows; `sums` are those of its attention, where it has one."""
    reach, (h, w) = reach_of(block), x.shape[2:]
    run = block if sums is None else partial(block, sums=sums)
    tile = max(1, _rows_at_once(x) // reach.stride), reach.length(w)
    return Tiled(run, reach, lambda rows, columns: x[:, :, rows, columns], (h, w), tile)


def attention_sums(block: nn.Module, x: Tensor) -> Tensor | None:
    """The sums of a block's attention over a whole map; None where it has no attention."""
    if not isinstance(block, AttentionConvBlock):
        return None
    peak = key_peak(block, x)
    return torch.stack([block.attn.sums(tokens_of(block, rows), peak) for rows in by_rows(x)]).sum(dim=0)


def key_peak(block: AttentionConvBlock, x: Tensor) -> Tensor | None:
    """What the softmax kernel wants to know of all keys of a map; None for the other kernel."""
    if block.attn.kernel != "softmax":
        return None
    return torch.stack([block.attn.key_peak(tokens_of(block, rows)) for rows in by_rows(x)]).amax(dim=0)


def tokens_of(block: AttentionConvBlock, rows: Tensor) -> Tensor:
    """What a block's attention sees of rows of its map, 1 c h w -> 1 (h w) c."""
    return as_tokens(block.act1(block.bn1(rows)))


def by_rows(x: Tensor) -> tuple[Tensor, ...]:
    """A map, 1 c h w, some rows at a time."""
    return x.split(_rows_at_once(x), dim=2)


def _rows_at_once(x: Tensor) -> int:
    return max(1, VALUES_AT_ONCE // x.shape[1] // x.shape[3])
