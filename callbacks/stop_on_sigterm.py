"""SIGTERM or Slurm's notice ends training at the next step, with a checkpoint to go on from."""

import logging
import signal
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import lightning
from lightning.pytorch.callbacks import Callback

from hct_lightning.runs.signals import Preempted, Terminated, slurm_notices

log = logging.getLogger(__name__)


class StopOnSigterm(Callback):
    """After a signal to any rank all ranks save `checkpoints/last.ckpt` at the same step, and end.

    The signals are SIGTERM and those of `slurm_notices`.

    In a validation pass they end without saving, for a checkpoint from there would go on without its result. The last one
    is from before the epoch's end, at most `callbacks.last.every_minutes` of training ago, which is done again. Lightning's
    own handler is replaced, because it enters a collective wherever the signal happens to come,
    and now and then waits there for ever.

    Raises:
        Terminated: on every rank; `Preempted` when any of them had Slurm's notice.
    """

    def __init__(self) -> None:
        self._told: set[int] = set()
        self._step = -1

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        self._step = trainer.global_step
        for number in (signal.SIGTERM, *slurm_notices()):
            signal.signal(number, self._note)  # Lightning restores the one before it in the end

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._told.add(number)

    def _agreed(self, trainer: lightning.Trainer) -> bool:
        """Whether any rank was told; the same answer on every rank."""
        return trainer.strategy.reduce_boolean_decision(bool(self._told), all=False)

    def _end(self, trainer: lightning.Trainer) -> NoReturn:
        noticed = bool(self._told & slurm_notices())
        any_noticed = trainer.strategy.reduce_boolean_decision(noticed, all=False)
        raise Preempted if any_noticed else Terminated

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
            self._end(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: Any) -> None:
        if self._agreed(trainer):
            self._save_and_end(trainer)

    def _save_and_end(self, trainer: lightning.Trainer) -> None:
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt")
        log.info("told to end: saved step %d in checkpoints/last.ckpt", trainer.global_step)
        self._end(trainer)
