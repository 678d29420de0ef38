"""Maps of an image that is read by region: as `gradient.py` and `attention.py` make them, part by part.

Both need the image no more once HCT's first stages have been through it tile by tile.

Legend: c channels, h height, w width.
"""

import torch

from hct_lightning.explain.attention import rollout
from hct_lightning.explain.gradient import UNIT
from hct_lightning.explain.maps import Map
from hct_lightning.models.streaming import StreamedHCT, through_block
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
        x = self._map
        with torch.no_grad():
            for block in self._streamed.blocks(self._stages, known[layer]):
                x = through_block(block, x)
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self._streamed.logits(x, known[layer])[0, target], x)
        return Map((gradient * x).sum(dim=1)[0].detach().float().cpu(), UNIT)

    @torch.inference_mode()
    def attention(self, target: int) -> Map:
        """As `attention_map` has it: of no class."""
        return rollout(self._map, self._streamed.blocks(self._stages, len(self._streamed.hct.stages)))
