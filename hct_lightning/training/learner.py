"""What every training has: a network, its optimiser and its schedule."""

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn

from hct_lightning.training.progress import timer_of, total_steps
from hct_lightning.training.resuming import StepSchedule, keep_options
from hct_lightning.training.spec import NetworkSpec

log = logging.getLogger(__name__)


class Learner(lightning.LightningModule):
    """A network that learns from uint8 images, b c h w; a subclass says what, in its `training_step`.

    Args:
        network: takes uint8 images.
        optimizer: takes parameters and `lr`, gives the optimiser.
        schedule: see `hct_lightning.training.schedules`.
        lr: the learning rate at a global batch of `reference_batch`.
        reference_batch: images per step for which `lr` is meant.
        global_batch: images per step over all devices; the rate grows with it linearly.
        images_per_backward: what a micro-batch's summed loss is divided by, so that all images of a global
            batch weigh the same however they are divided; by default each micro-batch's own size.
        spec: saved in checkpoints; without it they can't be used apart from their run.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        schedule: Callable[..., float] | None = None,
        lr: float = 1.0,
        reference_batch: int = 16,
        global_batch: int = 16,
        images_per_backward: float | None = None,
        spec: NetworkSpec | None = None,
    ) -> None:
        super().__init__()
        if not lr > 0:
            raise ValueError(f"optim.lr={lr}: give a positive learning rate")
        if reference_batch < 1:
            raise ValueError(f"optim.reference_batch={reference_batch}: give at least 1")
        self.network = network
        self.optimizer = optimizer
        self.schedule = schedule
        self.scale = global_batch / reference_batch
        self.images_per_backward = images_per_backward
        self.lr = lr
        self.steps_in_time = math.inf  # how many `trainer.max_time` is enough for, where that is known
        self.save_hyperparameters({"spec": spec.as_json() if spec else {}})

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def logged(self, total: Tensor, *, images: int, crops: int, **others: Tensor) -> Tensor:
        """What a training step gives back, of the sum of its losses: all images of a global batch weigh the same.

        Logs `train/loss_epoch`, `train/loss_step` (of the first rank's last micro-batch) and, by epoch, `others`.

        Args:
            total: of the losses of all crops.
            images: of the micro-batch.
            crops: of each of them.
            others: means over the micro-batch, by name.
        """
        mean = total.detach() / (images * crops)
        # Nothing here is read or waits for other ranks: those of the epoch are when it ends, the other every
        # log_every_n_steps.
        for name, value in {"loss_epoch": mean, **others}.items():
            self.log(f"train/{name}", value, on_step=False, on_epoch=True, batch_size=images, sync_dist=True)
        self.log("train/loss_step", mean, on_step=True, on_epoch=False)
        return total / (crops * (self.images_per_backward or images))

    def on_validation_epoch_start(self) -> None:
        if self.trainer.world_size > 1:  # in training BatchNorm's figures are each rank's own; rank 0's are saved
            for buffer in self.network.buffers():
                dist.broadcast(buffer, 0)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trainer: Any = self.trainer
        averages = any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)
        if "current_model_state" in checkpoint and not averages:  # moments and rates are of these weights
            log.info("no averaged weights from here on: training goes on from the weights that train")
            checkpoint["state_dict"] = checkpoint["current_model_state"]

    def configure_optimizers(self) -> dict[str, Any]:
        if not (self.optimizer and self.schedule):
            raise ValueError("training takes an optimizer and a schedule; validation and prediction do without")
        # Weight decay is for matrices and kernels, not for biases and norms (timm's convention).
        by_kind = {True: [], False: []}
        for parameter in self.parameters():
            by_kind[parameter.ndim > 1].append(parameter)
        groups = [{"params": by_kind[True]}, {"params": by_kind[False], "weight_decay": 0.0}]
        optimizer = self.optimizer(groups, lr=self.lr * self.scale)
        keep_options(optimizer)
        self.trainer.fit_loop.setup_data()  # else the batches of an epoch may not be known yet
        if total_steps(self.trainer) == math.inf and not timer_of(self.trainer):
            log.info("trainer.max_epochs and max_steps are open: the schedule holds its rate after the warm-up")
        steps_per_epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        multiplier = partial(self.schedule, steps_per_epoch=steps_per_epoch, scale=self.scale)
        scheduler = StepSchedule(optimizer, lambda step: multiplier(step, total_steps=total_steps(self.trainer)))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }
