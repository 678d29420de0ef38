"""Progress for people: bars on a terminal, a line per epoch elsewhere."""

import logging
import sys
import time
from datetime import timedelta
from typing import Any

import lightning
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar

from hct_lightning.runs.console import on_terminal

log = logging.getLogger(__name__)


def progress_bar(*, every_s: float = 30.0) -> ProgressBar:
    """Rich bars when standard error is a terminal, else plain lines at least `every_s` apart."""
    if on_terminal(sys.stderr):
        return Bars(leave=True, console_kwargs={"stderr": True})
    return PlainProgress(every_s=every_s)


class Bars(RichProgressBar):
    """With the loss as it was last logged: to read it at every step would make the device wait."""

    _loss: float | None = None

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if stepped and trainer.log_every_n_steps and trainer.global_step % trainer.log_every_n_steps == 0:
            self._loss = trainer.callback_metrics["train/loss_step"].item()
        super().on_train_batch_end(trainer, module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: lightning.Trainer, module: Any) -> dict[str, Any]:
        return super().get_metrics(trainer, module) | ({} if self._loss is None else {"train/loss": self._loss})


class PlainProgress(ProgressBar):
    """A line at the end of each epoch, and one every `every_s` seconds in long ones."""

    def __init__(self, *, every_s: float = 30.0) -> None:
        super().__init__()
        self.every_s = every_s
        self._last = 0.0
        self._begun = 0.0
        self._images = 0
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def _line(self, text: str) -> None:
        self._last = time.monotonic()
        if self._enabled:
            log.info(text)

    def on_train_epoch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        self._last = time.monotonic()

    def _batch(self, what: str, batch_idx: int, total: int | float) -> None:
        if time.monotonic() - self._last >= self.every_s:
            self._line(f"  {what} {batch_idx + 1}/{total}")

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        epoch = f"epoch {trainer.current_epoch + 1}: batch"
        self._batch(epoch, batch_idx, self.total_train_batches)

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._batch("validation batch", batch_idx, trainer.num_val_batches[dataloader_idx])

    def on_predict_start(self, *_: Any) -> None:
        self._begun = self._last = time.monotonic()
        self._images = 0

    def on_predict_batch_end(
        self,
        trainer: lightning.Trainer,
        module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._images += len(batch.index) * trainer.world_size
        seconds, total = time.monotonic() - self._begun, trainer.num_predict_batches[dataloader_idx]
        left = timedelta(seconds=round(seconds * (total / (batch_idx + 1) - 1)))
        self._batch(f"{self._images / seconds:.3g} images/s, {left} left: prediction batch", batch_idx, total)

    def on_train_epoch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        last = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else "?"
        metrics = trainer.callback_metrics
        shown = [
            f"{name} {metrics[name]:.4f}"
            for name in ("train/loss_epoch", "val/loss", "val/accuracy")
            if name in metrics
        ]
        self._line(f"epoch {trainer.current_epoch + 1}/{last}: " + ", ".join(shown))
