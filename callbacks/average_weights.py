"""Averaged weights: validated, exported and saved in the place of those that train."""

from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import WeightAveraging


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
        super().__init__(use_buffers=False)
        self.span = span

    def setup(self, trainer: lightning.Trainer, pl_module: Any, stage: str) -> None:
        self._device = trainer.strategy.root_device  # the module is not there yet
        super().setup(trainer, pl_module, stage)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        """Averages after a step; PyTorch's `update_parameters` would copy a number to the device in each, and wait for it."""
        average, step = self._average_model, trainer.global_step
        assert average is not None
        if step <= self._latest_update_step:
            return
        weight = min(1.0, 1 / (self.span * step)) if self._latest_update_step else 1.0
        with torch.no_grad():
            torch._foreach_lerp_(list(average.module.parameters()), list(pl_module.parameters()), weight)
            for buffer, newest in zip(average.module.buffers(), pl_module.buffers(), strict=True):
                buffer.copy_(newest)
        self._latest_update_step = step
