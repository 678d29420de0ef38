"""Micro-batches that may change when a run is resumed."""

from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback


class MicroBatches(Callback):
    """Saves the number of micro-batches of a step, and brings the counts of a checkpoint to this run's number.

    Lightning counts the batches of an epoch in micro-batches; how far an epoch is, is counted in steps.
    """

    def on_save_checkpoint(self, trainer: lightning.Trainer, module: Any, checkpoint: dict) -> None:
        checkpoint["micro_batches"] = trainer.accumulate_grad_batches

    def on_load_checkpoint(self, trainer: lightning.Trainer, module: Any, checkpoint: dict) -> None:
        before = checkpoint.get("micro_batches", trainer.accumulate_grad_batches)
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["current"], progress["total"]):
            unfinished = counts["processed"] - counts["completed"]  # the batch that saved
            for name in ("ready", "started", "processed"):
                counts[name] = counts[name] * trainer.accumulate_grad_batches // before
            counts["completed"] = counts["processed"] - unfinished
