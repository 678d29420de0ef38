"""What HCT's attention gathers: how much each position of the map gives to the mean that the classifier reads.

It is attention rollout (Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020), begun at the mean
over all positions of the last map and followed back through the blocks:

- at the end every position has the same weight;
- a position of a smaller map stands for the positions of its cell in the larger one;
- half of a position's weight stays where it is (the shortcuts), the other half goes to the positions that it attends
  to, by the mean over the heads.

With linear attention a weighted mean of the rows of the n x n matrix needs no such matrix. The map knows no class, and
takes convolutions for granted: it shows where attention looks, not what the network concludes.

Legend: n positions, c channels, h height, w width.
"""

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hct_lightning.explain.maps import Map
from hct_lightning.models import HCT, FromPixels
from hct_lightning.models.hct import AttentionConvBlock
from hct_lightning.models.streaming import attention_sums, by_rows, key_peak, through_block, tokens_of


def has_attention(network: FromPixels) -> bool:
    """Whether it is HCT with attention; the CNN twin has none."""
    return any(isinstance(module, AttentionConvBlock) for module in network.modules())


@torch.inference_mode()
def attention_map(network: FromPixels, pixels: Tensor, target: int) -> Map:
    """At the stride of the first attention block; 1 is the mean.

    Args:
        network: HCT with attention, in evaluation.
        pixels: 1 c h w uint8.
        target: not used: attention knows no class.
    """
    hct = cast(HCT, network.network)
    x = hct.stem(network.normalise(pixels, torch.float32))
    return rollout(x, [block for stage in hct.stages for block in cast(nn.Sequential, stage)])


def rollout(x: Tensor, blocks: Iterable[nn.Module]) -> Map:
    """The map over x, 1 c h w, which goes through blocks; at the stride of the first that attends."""
    entered: list[tuple[AttentionConvBlock, Tensor]] = []
    for block in blocks:
        if isinstance(block, AttentionConvBlock):
            entered.append((block, x))
        x = through_block(block, x)
    weights = torch.full((1, *x.shape[2:]), 1 / x[0, 0].numel(), device=x.device)
    for block, before in reversed(entered):
        weights = _through(block, before, weights)
    return Map((weights[0] * weights.numel()).cpu(), "times the mean")


def _through(block: AttentionConvBlock, x: Tensor, weights: Tensor) -> Tensor:
    """Weights of what a block gives -> weights of what it got, the map x: 1 h' w' -> 1 h w, both of sum 1."""
    weights = F.interpolate(weights[None], x.shape[2:], mode="nearest")[0]
    weights = weights / weights.sum()
    sums, peak = attention_sums(block, x), key_peak(block, x)
    assert sums is not None, "it has attention"
    lines = [line.flatten(1) for line in weights.split([rows.shape[2] for rows in by_rows(x)], dim=1)]
    asked = [block.attn.asked(tokens_of(block, rows), line, sums) for rows, line in zip(by_rows(x), lines, strict=True)]
    total = torch.stack(asked).sum(dim=0)
    given = [block.attn.given(tokens_of(block, rows), total, peak) for rows in by_rows(x)]
    return (weights + torch.cat(given, dim=1).view_as(weights)) / 2
