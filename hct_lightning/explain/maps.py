"""What every method gives: a map over the image, in a unit of its own."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.functional import spearman_corrcoef


@dataclass(frozen=True)
class Map:
    """How much each part of an image matters; a value stands for a cell of equal size.

    Args:
        values: h w fp32, on the CPU; negative ones speak against the class and are drawn as 0.
        unit: of the values, as words that follow a number.
        whole: the map that this is a part of, and has its colours from.
    """

    values: Tensor
    unit: str
    whole: "Map | None" = None

    @property
    def range(self) -> tuple[float, float]:
        """What is drawn darkest and brightest."""
        if self.whole:
            return self.whole.range
        shown = self.values.clamp(min=0)
        return shown.min().item(), shown.max().item()

    def part(self, rows: slice, columns: slice) -> "Map":
        """A part, with the colours of the whole."""
        return Map(self.values[rows, columns], self.unit, self)

    def shares(self) -> Tensor:
        """h w of 0..1: the place of each value between darkest and brightest."""
        low, high = self.range
        return (self.values.clamp(min=0) - low) / (high - low) if high > low else torch.zeros_like(self.values)


def rank_correlation(a: Map, b: Map) -> float | None:
    """Spearman's, of two maps of one size: 1 where they order the image alike, 0 where they have nothing in common.

    None where one is the same everywhere.
    """
    if a.values.unique().numel() == 1 or b.values.unique().numel() == 1:
        return None
    return spearman_corrcoef(a.values.flatten(), b.values.flatten()).item()
