"""Maps of an image that is read by region: as `gradient.py` and `attention.py` make them, part by part.

Both need the image no more once HCT's first stages have been through it tile by tile.

Legend: c channels, h height, w width.
"""

import torch
from torch import Tensor, nn

from hct_lightning.explain.attention import rollout
from hct_lightning.explain.gradient import UNIT
from hct_lightning.explain.maps import Map
from hct_lightning.models.hct import AttentionConvBlock
from hct_lightning.models.streaming import (
    StreamedHCT,
    attention_sums,
    by_rows,
    in_parts,
    key_peak,
    through_block,
    tokens_of,
)
from hct_lightning.models.tiles import Progress, Source


class StreamedMaps:
    """What a network says of an image, and the maps over it.

    Args:
        streamed: HCT, tile by tile.
        source: the image.
        progress: of the tiles.

    Attributes:
        logits: classes.
    """

    def __init__(self, streamed: StreamedHCT, source: Source, progress: Progress | None = None) -> None:
        self._streamed = streamed
        self._stages = streamed.hct.local_stages
        with torch.no_grad():  # not inference mode: gradients begin at this map
            self._map = streamed.first_stages(source, progress)
            self.logits = streamed.logits(self._map)[0]

    def gradient(self, target: int, layer: str) -> Map:
        """As `gradient_map` has it.

        Args:
            target: the class.
            layer: a stage that the tiles have passed, or a later one.

        Raises:
            ValueError: for another layer.
        """
        stages = range(self._stages, len(self._streamed.hct.stages) + 1)
        if layer not in (known := {f"stages.{stage - 1}": stage for stage in stages}):
            raise ValueError(
                f"explain.layer={layer}: of an image that is read by region choose one of {', '.join(known)}"
            )
        with torch.no_grad():
            x = self._map
            for block in self._streamed.blocks(self._stages, known[layer]):
                x = through_block(block, x)
            inputs, after = [x], self._streamed.blocks(known[layer])
            for block in after:
                inputs.append(through_block(block, inputs[-1]))
        last = inputs.pop().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self._streamed.head(last)[0, target], last)
        for block, before in zip(reversed(after), reversed(inputs), strict=True):
            gradient = block_gradient(block, before, gradient)
        return Map((gradient * x.detach()).sum(dim=1)[0].float().cpu(), UNIT)

    @torch.inference_mode()
    def attention(self, target: int) -> Map:
        """As `attention_map` has it: of no class."""
        return rollout(self._map, self._streamed.blocks(self._stages))


def block_gradient(block: nn.Module, x: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of a block's input, the map x, from that of its output; computed part by part, as the block is.

    Attention sees each position twice: where it reads the sums over all positions, and in the sums.
    """
    total = torch.zeros_like(x)
    with torch.no_grad():
        sums = attention_sums(block, x)
    parts = in_parts(block, x, sums.requires_grad_() if sums is not None else None)
    of_sums = torch.zeros_like(sums) if sums is not None else None
    for rows, columns in parts.places():
        needed, inside = parts.reach.needed(rows, x.shape[2])
        part = x[:, :, needed].detach().requires_grad_()
        with torch.enable_grad():
            piece = parts.run(part)[:, :, inside]
        wanted = (part,) if sums is None else (part, sums)
        found = torch.autograd.grad(piece, wanted, gradient[:, :, rows, columns])
        total[:, :, needed] += found[0]
        if of_sums is not None:
            of_sums += found[1]
    if of_sums is not None:
        assert isinstance(block, AttentionConvBlock), "it has sums"
        peak = key_peak(block, x)
        for rows, of_rows in zip(by_rows(x), by_rows(total), strict=True):
            part = rows.detach().requires_grad_()
            with torch.enable_grad():
                gathered = block.attn.sums(tokens_of(block, part), peak)
            of_rows += torch.autograd.grad(gathered, part, of_sums)[0]
    return total
