"""BatchNorm's statistics: measured for validation, and frozen for the last part of training."""

from collections.abc import Iterator
from typing import Any

import lightning
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback, WeightAveraging
from torch import Tensor

from hct_lightning.callbacks.last_checkpoint import LastCheckpoint
from hct_lightning.models import FromPixels
from hct_lightning.training.batch_norm import measure_statistics, norms_of
from hct_lightning.training.progress import total_steps


class BatchNormStatistics(Callback):
    """Measures the statistics anew before each validation, until they are frozen.

    The running ones follow the batches of the last steps, whose weights were others, and averaged weights have none of
    their own. The measured ones are of training images as validation sees them: whole, without augmentation. They are
    saved with the weights that were validated. All ranks take part, and have the same.

    Frozen, BatchNorm normalises by them in training, too; its weight and bias still train. The result then does not
    depend on how a batch is divided over devices and micro-batches, and training and validation see one network.

    Args:
        images: that statistics are measured on, about; 0: never.
        freeze: the last part of training in which they are frozen, from the start of an epoch; 0: none. Where it is
            not the whole training they are measured first; else they stay as loaded.

    Raises:
        ValueError: for a value out of range, averaged weights that would come after the measuring, or `memory=stream`,
            whose first stages can't be measured.
    """

    def __init__(self, *, images: int, freeze: float) -> None:
        if images < 0:
            raise ValueError(f"callbacks.batch_norm.images={images}: give 0 or more")
        if not 0 <= freeze <= 1:
            raise ValueError(f"callbacks.batch_norm.freeze={freeze}: give the part of training, 0 to 1")
        self.images = images
        self.freeze = freeze
        self.frozen = False
        self._batches: Any = None

    def state_dict(self) -> dict[str, Any]:
        return {"frozen": self.frozen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.frozen = state_dict["frozen"]

    def on_fit_start(self, trainer: Any, module: Any) -> None:
        order = trainer.callbacks
        if any(isinstance(later, WeightAveraging) for later in order[order.index(self) :]):
            raise ValueError(
                "averaged weights come after callbacks.batch_norm, which measures them; put them before it"
            )
        if self.images and self.freeze < 1:
            for part in module.modules():
                if isinstance(part, FromPixels):
                    part.check_that_statistics_can_be_measured()

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        # Not any more where a run goes on for longer than it was to be.
        self.frozen = self.frozen and self._is_last_part(trainer)

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: Any) -> None:
        if not self.frozen and self._is_last_part(trainer):
            if self.freeze < 1:
                self._measure(trainer, module)
            self.frozen = True

    def _is_last_part(self, trainer: lightning.Trainer) -> bool:
        if self.freeze in (0, 1):  # a training whose end is open has an unlimited number of steps
            return self.freeze == 1
        return trainer.global_step >= (1 - self.freeze) * total_steps(trainer)

    def on_train_batch_start(self, trainer: lightning.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if self.frozen:
            for layer in norms_of(module):
                layer.eval()

    def on_validation_epoch_start(self, trainer: lightning.Trainer, module: Any) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking and not self.frozen:
            self._measure(trainer, module)

    def _measure(self, trainer: Any, module: Any) -> None:
        if not self.images:
            return
        self._batches = self._batches or trainer.datamodule.without_augmentation(self.images)
        listening = [callback for callback in trainer.callbacks if isinstance(callback, LastCheckpoint)]

        def batches() -> Iterator[Tensor]:
            for batch in self._batches:
                yield batch.images.to(module.device)
                for callback in listening:  # it may take minutes
                    callback.listen()

        with trainer.precision_plugin.val_step_context():
            measure_statistics(module, batches(), _gather)


def _gather(seen: Tensor) -> Tensor:
    """Those of all ranks, each with as many batches, in the order in which one process would see them."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return seen
    everyone = [torch.empty_like(seen) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, seen)
    return torch.stack(everyone, dim=1).flatten(0, 1)
