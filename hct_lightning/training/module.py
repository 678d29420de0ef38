"""The LightningModule: forward, loss, metrics, optimiser and schedule. It computes and logs."""

import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import lightning
import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning.pytorch.callbacks import Timer
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
)

from hct_lightning.data.feeding.loader import Batch
from hct_lightning.training.progress import total_steps
from hct_lightning.training.resuming import StepSchedule, keep_options
from hct_lightning.training.spec import NetworkSpec

log = logging.getLogger(__name__)


class Answers(NamedTuple):
    """What the network said of validation images.

    index: n int64, position in the split, on the CPU; negative for padding.
    logits: n classes, fp32.
    labels: n int64.
    """

    index: Tensor
    logits: Tensor
    labels: Tensor


class ImageClassifier(lightning.LightningModule):
    """Classifies uint8 images, b c h w.

    Args:
        network: takes uint8 images and gives logits, b classes.
        classes: their names, sorted.
        optimizer: takes parameters and `lr`, gives the optimiser.
        schedule: see `hct_lightning.training.schedules`.
        lr: the learning rate at a global batch of `reference_batch`.
        reference_batch: images per step for which `lr` is meant.
        global_batch: images per step over all devices; the rate grows with it linearly.
        images_per_backward: what a micro-batch's summed loss is divided by, so that all images of a global
            batch weigh the same however they are divided; by default each micro-batch's own size.
        class_weights: one weight per class in the loss, 1 on average over the training images.
        label_smoothing: of the cross-entropy.
        spec: saved in checkpoints; without it they can't be used apart from their run.

    Logs `train/loss_epoch`, `train/loss_step` (of the first rank's last micro-batch), `train/accuracy`, `val/loss`,
    `val/accuracy`, `val/balanced_accuracy`, `val/f1` (macro) and `val/auroc` (macro, one against the rest); all but
    the losses are fractions.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        classes: Sequence[str],
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        schedule: Callable[..., float] | None = None,
        lr: float = 1.0,
        reference_batch: int = 16,
        global_batch: int = 16,
        images_per_backward: float | None = None,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        spec: NetworkSpec | None = None,
    ) -> None:
        super().__init__()
        if not lr > 0:
            raise ValueError(f"optim.lr={lr}: give a positive learning rate")
        if reference_batch < 1:
            raise ValueError(f"optim.reference_batch={reference_batch}: give at least 1")
        self.network = network
        self.classes = list(classes)
        self.optimizer = optimizer
        self.schedule = schedule
        self.scale = global_batch / reference_batch
        self.images_per_backward = images_per_backward
        self.lr = lr
        self.steps_in_time = math.inf  # how many `trainer.max_time` is enough for, where that is known
        self.label_smoothing = label_smoothing
        self.class_weights: Tensor | None
        self.register_buffer(
            "class_weights",
            torch.tensor(class_weights, dtype=torch.float32) if class_weights else None,
            persistent=False,
        )
        self.save_hyperparameters({"spec": spec.as_json() if spec else {}})
        n = len(self.classes)
        # Computed of all ranks' answers at once, on every rank: see on_validation_epoch_end.
        self.val_metrics = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(n, average="micro"),
                "balanced_accuracy": MulticlassAccuracy(n, average="macro"),
                "f1": MulticlassF1Score(n, average="macro"),
                "auroc": MulticlassAUROC(n, average="macro"),
                "confusion": MulticlassConfusionMatrix(n),
            }
        )
        self._answers: list[Answers] = []
        self.answers: Answers | None = None  # of the last validation, of all ranks, in the order of the images
        self.confusion: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits = self(batch.images).float()
        total = F.cross_entropy(
            logits,
            batch.labels,
            weight=self.class_weights,
            label_smoothing=self.label_smoothing,
            reduction="sum",
        )
        size, crops = len(batch.index), len(batch.labels) // len(batch.index)
        mean = total.detach() / (size * crops)
        labels = batch.labels if batch.labels.ndim == 1 else batch.labels.argmax(dim=1)  # mixed: the larger share
        right = (logits.detach().argmax(dim=1) == labels).float().mean()
        # Nothing here is read or waits for other ranks: those of the epoch are when it ends, the other every
        # log_every_n_steps.
        for name, value in (("train/loss_epoch", mean), ("train/accuracy", right)):
            self.log(name, value, on_step=False, on_epoch=True, batch_size=size, sync_dist=True)
        self.log("train/loss_step", mean, on_step=True, on_epoch=False)
        return total / (crops * (self.images_per_backward or size))

    def on_validation_epoch_start(self) -> None:
        self._answers = []
        if self.trainer.world_size > 1:  # in training BatchNorm's figures are each rank's own; rank 0's are saved
            for buffer in self.network.buffers():
                dist.broadcast(buffer, 0)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._answers.append(Answers(batch.index, self(batch.images).float(), batch.labels))

    def on_validation_epoch_end(self) -> None:
        everyone = self._everyones_answers()
        # In the order of the images: sums come out the same for any number of ranks.
        order = everyone.index.argsort()
        self.answers = Answers(*(values[order] for values in everyone))
        _, logits, labels = self.answers
        values = self.val_metrics.cpu()(logits.softmax(dim=1), labels)
        self.val_metrics.reset()
        self.confusion = values.pop("confusion")
        values["loss"] = F.cross_entropy(logits, labels)
        shown = ("loss", "accuracy")
        for name, value in values.items():
            self.log(f"val/{name}", value.float(), prog_bar=name in shown, rank_zero_only=True)

    def _everyones_answers(self) -> "Answers":
        """This pass's answers of all ranks, on the CPU; some ranks may have none."""
        mine = Answers(*(torch.cat(values).cpu() for values in zip(*self._answers, strict=True)))
        counted = mine.index >= 0  # the rest pads an uneven last round over the ranks
        mine = Answers(*(values[counted] for values in mine))
        everyone: list[Any] = [mine]
        if self.trainer.world_size > 1:
            everyone = [None] * self.trainer.world_size
            dist.all_gather_object(everyone, mine)
        return Answers(*(torch.cat(values) for values in zip(*everyone, strict=True)))

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """b classes probabilities."""
        return self(batch.images).float().softmax(dim=1)

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
        trainer: Any = self.trainer
        timed = any(isinstance(callback, Timer) for callback in trainer.callbacks)
        if total_steps(self.trainer) == math.inf and not timed:
            log.info("trainer.max_epochs and max_steps are open: the schedule holds its rate after the warm-up")
        steps_per_epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        multiplier = partial(self.schedule, steps_per_epoch=steps_per_epoch, scale=self.scale)
        scheduler = StepSchedule(optimizer, lambda step: multiplier(step, total_steps=total_steps(self.trainer)))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }
