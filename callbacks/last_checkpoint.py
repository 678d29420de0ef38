"""A checkpoint to go on from, wherever training stops."""

import time
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Checkpoint


class LastCheckpoint(Checkpoint):
    """Keeps `checkpoints/last.ckpt` current: after each epoch, and in between.

    Args:
        every_minutes: also save when the last one is this old, after an optimiser step; None: not.
        every_steps: also save after every so many optimiser steps; None: not.
    """

    def __init__(self, *, every_minutes: float | None, every_steps: int | None) -> None:
        self.every_minutes = every_minutes
        self.every_steps = every_steps
        self._saved_at = time.monotonic()
        self._step = -1

    def _save(self, trainer: lightning.Trainer) -> None:
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt")
        self._saved_at = time.monotonic()

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        self._saved_at = time.monotonic()
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stepped = trainer.global_step != self._step
        self._step = trainer.global_step
        if not stepped or trainer.is_last_batch:  # the epoch's end saves
            return
        due = bool(self.every_steps) and trainer.global_step % self.every_steps == 0
        if self.every_minutes:
            old = time.monotonic() - self._saved_at >= 60 * self.every_minutes
            due |= trainer.strategy.broadcast(old)  # clocks differ, the decision must not
        if due:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: Any) -> None:
        self._save(trainer)
