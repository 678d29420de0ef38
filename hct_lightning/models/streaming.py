"""An image larger than memory through HCT, exactly.

Its convolutions run tile by tile. Its attention is linear: the sums over all positions are gathered part by part
before any position reads them. So the logits are those of the whole image, to rounding, and what is held is a map
at a thirty-second of the image's height and width. Every part is run by the modules of hct.py.

Legend: b batch (1 here), c channels, h height, w width.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hct_lightning.models.hct import HCT, AttentionConvBlock, as_tokens, check_size
from hct_lightning.models.pixels import FromPixels, read_region
from hct_lightning.models.tiles import Kept, Progress, Source, Tiled, reach_of

POSITIONS_AT_ONCE = 2**17  # of a map that is held


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

    def logits(self, x: Tensor, stage: int | None = None) -> Tensor:
        """Those of a map that so many stages have given; by default it is the one of `first_stages`.

        With gradients, parts of a map are computed again in the backward pass.
        """
        for block in self.blocks(self.hct.local_stages if stage is None else stage, len(self.hct.stages)):
            x = through_block(block, x)
        totals = [self.hct.act(self.hct.norm(rows)).sum(dim=(2, 3), dtype=torch.float32) for rows in by_rows(x)]
        mean = torch.stack(totals).sum(dim=0) / x[0, 0].numel()
        return self.hct.forward_head(mean[..., None, None])

    def blocks(self, start: int, stop: int) -> Iterator[nn.Module]:
        """The blocks of stages, in order."""
        return (block for stage in list(self.hct.stages)[start:stop] for block in cast(nn.Sequential, stage))


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
    run: Callable[[Tensor], Tensor] = block
    if isinstance(block, AttentionConvBlock):
        run = partial(block, sums=attention_sums(block, x))
    reach, (h, w) = reach_of(block), x.shape[2:]
    tile = max(1, POSITIONS_AT_ONCE // w // reach.stride), reach.length(w)
    return Tiled(partial(_again, run), reach, lambda rows, columns: x[:, :, rows, columns], (h, w), tile).joined()


def attention_sums(block: AttentionConvBlock, x: Tensor) -> Tensor:
    """The sums of a block's attention over a whole map."""
    peak = key_peak(block, x)
    return torch.stack([_again(partial(_sums, block, peak), rows) for rows in by_rows(x)]).sum(dim=0)


def _sums(block: AttentionConvBlock, peak: Tensor | None, rows: Tensor) -> Tensor:
    return block.attn.sums(tokens_of(block, rows), peak)


def key_peak(block: AttentionConvBlock, x: Tensor) -> Tensor | None:
    """What the softmax kernel wants to know of all keys of a map; None for the other kernel."""
    if block.attn.kernel != "softmax":
        return None
    with torch.no_grad():  # it cancels out
        return torch.stack([block.attn.key_peak(tokens_of(block, rows)) for rows in by_rows(x)]).amax(dim=0)


def tokens_of(block: AttentionConvBlock, rows: Tensor) -> Tensor:
    """What a block's attention sees of rows of its map, 1 c h w -> 1 (h w) c."""
    return as_tokens(block.act1(block.bn1(rows)))


def by_rows(x: Tensor) -> tuple[Tensor, ...]:
    """A map, 1 c h w, some rows at a time."""
    return x.split(max(1, POSITIONS_AT_ONCE // x.shape[3]), dim=2)


def _again(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Runs it; where there are gradients, once more in the backward pass, and keeps nothing until then."""
    return checkpoint(run, x, use_reentrant=False) if torch.is_grad_enabled() else run(x)
