"""Averaged weights: validated, exported and saved in the place of those that train."""

from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class AverageWeights(WeightAveraging):
    """An exponential moving average over a part of the steps so far, by Lightning's own callback.

    After step t the newest weights count 1 / (span * t), so the average reaches back over about `span` of the training
    until then, however long that is. In the first 1 / span steps it is the newest weights. (With span = 1 it is the
    mean of all steps.) Karras et al., "Analyzing and Improving the Training Dynamics of Diffusion Models", 2024,
    section 3.1, for averages that grow with the training.

    BatchNorm's statistics are not averaged: `BatchNormStatistics`, which comes after it, measures those that fit.
    A checkpoint has the average as its weights, and those that train under `current_model_state`.

    Args:
        span: the part of the steps so far, above 0 and up to 1.

    Raises:
        ValueError: when it is out of range.
    """

    def __init__(self, *, span: float) -> None:
        if not 0 < span <= 1:
            raise ValueError(f"callbacks.average.span={span}: give a part of the training above 0, up to 1")
        super().__init__(use_buffers=False, multi_avg_fn=self._average)
        self.span = span
        self._step = 0

    def setup(self, trainer: lightning.Trainer, pl_module: Any, stage: str) -> None:
        self._device = trainer.strategy.root_device  # the module is not there yet
        super().setup(trainer, pl_module, stage)
        if average := self._average_model:
            average.n_averaged = (
                average.n_averaged.cpu()
            )  # it is read in each step, and the device must not be waited for

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        if step_idx is None:
            return False
        self._step = step_idx + 1
        return True

    def _average(self, averages: Any, newest: Any, _: Tensor | int) -> None:
        with torch.no_grad():
            torch._foreach_lerp_(averages, newest, min(1.0, 1 / (self.span * self._step)))
