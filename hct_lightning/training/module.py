"""The LightningModule that classifies: forward, loss and metrics. It computes and logs."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
)

from hct_lightning.data.feeding.loader import Batch
from hct_lightning.data.reading.image import UnreadableImageError
from hct_lightning.training.learner import Learner


class Answers(NamedTuple):
    """What the network said of validation images.

    index: n int64, position in the split, on the CPU; negative for padding.
    logits: n classes, fp32.
    labels: n int64.
    """

    index: Tensor
    logits: Tensor
    labels: Tensor


class ImageClassifier(Learner):
    """Classifies uint8 images, b c h w.

    Args:
        network: takes uint8 images and gives logits, b classes.
        classes: their names, sorted.
        class_weights: one weight per class in the loss, 1 on average over the training images.
        label_smoothing: of the cross-entropy.
        options: see `Learner`.

    Logs, beside what every learner does, `train/accuracy`, `val/loss`, `val/accuracy`, `val/balanced_accuracy`, `val/f1`
    (macro) and `val/auroc` (macro, one against the rest); all but the losses are fractions. Balanced accuracy and AUROC
    are means over the classes that validation images have.

    Raises:
        ValueError: for a label smoothing out of 0..1.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        classes: Sequence[str],
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(network, **options)
        if not isinstance(label_smoothing, int | float) or not 0 <= label_smoothing <= 1:
            raise ValueError(f"loss.label_smoothing={label_smoothing}: give a share of 0 to 1")
        self.classes = list(classes)
        self.label_smoothing = label_smoothing
        self.class_weights: Tensor | None
        self.register_buffer(
            "class_weights",
            torch.tensor(class_weights, dtype=torch.float32) if class_weights else None,
            persistent=False,
        )
        n = len(self.classes)
        # Computed of all ranks' answers at once, on every rank: see on_validation_epoch_end.
        self.val_metrics = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(n, average="micro"),
                "f1": MulticlassF1Score(n, average="macro"),
                "auroc": MulticlassAUROC(n, average=None),
                "confusion": MulticlassConfusionMatrix(n),
            }
        )
        self._answers: list[Answers] = []
        self.answers: Answers | None = None  # of the last validation, of all ranks, in the order of the images
        self.confusion: Tensor | None = None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        try:
            logits = self(batch.images).float()
        except UnreadableImageError as error:
            batch.images.skips(error)
            return self._nothing()
        total = F.cross_entropy(
            logits,
            batch.labels,
            weight=self.class_weights,
            label_smoothing=self.label_smoothing,
            reduction="sum",
        )
        size = len(batch.index)
        labels = batch.labels if batch.labels.ndim == 1 else batch.labels.argmax(dim=1)  # mixed: the larger share
        right = (logits.detach().argmax(dim=1) == labels).float().mean()
        return self.logged(total, images=size, crops=len(batch.labels) // size, accuracy=right)

    def _nothing(self) -> Tensor:
        """The loss of an image of which a region can't be read: no gradient, of every weight, for ranks wait for all."""
        return sum(
            (weight.sum() * 0.0 for weight in self.parameters() if weight.requires_grad),
            torch.zeros((), device=self.device),
        )

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._answers = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._answers.append(Answers(*self._answered(batch), batch.labels))

    def _answered(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Index and logits; the index is negative for an image of which a region can't be read, if that is skipped."""
        try:
            return batch.index, self(batch.images).float()
        except UnreadableImageError as error:
            batch.images.skips(error)
            return torch.minimum(batch.index, -1 - batch.index), torch.zeros((1, len(self.classes)), device=self.device)

    def on_validation_epoch_end(self) -> None:
        everyone = self._everyones_answers()
        # In the order of the images: sums come out the same for any number of ranks.
        order = everyone.index.argsort()
        self.answers = Answers(*(values[order] for values in everyone))
        _, logits, labels = self.answers
        values = self.val_metrics.cpu()(logits.softmax(dim=1), labels)
        self.val_metrics.reset()
        confusion: Tensor = values.pop("confusion")
        self.confusion = confusion
        images = confusion.sum(dim=1)  # by class
        by_class = values.pop("auroc")[(images > 0) & (images < len(labels))]
        if len(by_class):
            values["auroc"] = by_class.mean()
        values["balanced_accuracy"] = (confusion.diag() / images)[images > 0].mean()
        values["loss"] = F.cross_entropy(logits, labels)
        shown = ("loss", "accuracy")
        for name, value in values.items():
            self.log(f"val/{name}", value.float(), prog_bar=name in shown, rank_zero_only=True)

    def _everyones_answers(self) -> "Answers":
        """This pass's answers of all ranks, on the CPU; some ranks may have none.

        Raises:
            ValueError: when nobody has any.
        """
        mine = Answers(*(torch.cat(values).cpu() for values in zip(*self._answers, strict=True)))
        counted = mine.index >= 0  # the rest pads an uneven last round over the ranks
        mine = Answers(*(values[counted] for values in mine))
        everyone: list[Any] = [mine]
        if self.trainer.world_size > 1:
            everyone = [None] * self.trainer.world_size
            dist.all_gather_object(everyone, mine)
        found = Answers(*(torch.cat(values) for values in zip(*everyone, strict=True)))
        if not len(found.index):
            raise ValueError("none of the validation images can be read; skipped.csv in the run's folder names them")
        return found

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """b classes probabilities."""
        return self._answered(batch)[1].softmax(dim=1)
