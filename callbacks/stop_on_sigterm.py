"""SIGTERM ends training at the next step, with a checkpoint to go on from."""

import logging
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from hct_lightning.signals import Terminated

log = logging.getLogger(__name__)


class StopOnSigterm(Callback):
    """After SIGTERM to any rank all ranks save `checkpoints/last.ckpt` at the same step, and end.

    In a validation pass they end without saving: the last checkpoint is from before it. Lightning's
    own handler is replaced, because it enters a collective wherever the signal happens to come,
    and now and then waits there for ever.

    Raises:
        Terminated: on every rank.
    """

    def __init__(self) -> None:
        self._told = False
        self._step = -1

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        self._step = trainer.global_step
        signal.signal(signal.SIGTERM, self._note)  # Lightning restores the one before it in the end

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._told = True

    def _agreed(self, trainer: lightning.Trainer) -> bool:
        """Whether any rank was told; the same answer on every rank."""
        return trainer.strategy.reduce_boolean_decision(self._told, all=False)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stepped = trainer.global_step != self._step
        self._step = trainer.global_step
        # Between the micro-batches of a step there is nothing to go on from, and after an epoch's
        # last batch its end comes first.
        if stepped and not trainer.is_last_batch and self._agreed(trainer):
            self._save_and_end(trainer)

    def on_validation_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if not trainer.sanity_checking and self._agreed(trainer):
            raise Terminated

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: Any) -> None:
        if self._agreed(trainer):
            self._save_and_end(trainer)

    def _save_and_end(self, trainer: lightning.Trainer) -> None:
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt")
        log.info("SIGTERM: saved step %d in checkpoints/last.ckpt", trainer.global_step)
        raise Terminated
