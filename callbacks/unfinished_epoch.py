"""An epoch that steps or time ended goes on when the run does."""

from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback


class UnfinishedEpoch(Callback):
    """Goes on within an epoch that `trainer.max_steps` or `trainer.max_time` ended, where Lightning would begin the next.

    The next has fewer steps than an epoch then, and training ends too early by them. Resumed with `trainer.max_steps`,
    Lightning takes every epoch for one that was interrupted; here one that had its end is over.
    """

    def on_load_checkpoint(self, trainer: lightning.Trainer, module: Any, checkpoint: dict) -> None:
        loop: Any = trainer.fit_loop
        loop._iteration_based_training = lambda: False  # what it says is asked for nothing else
        saved = checkpoint["loops"]["fit_loop"]
        epochs, batches = saved["epoch_progress"], saved["epoch_loop.batch_progress"]
        ended = 0 < epochs["current"]["processed"] == epochs["current"]["ready"]
        if not ended or batches["is_last_batch"]:
            return
        over = batches["current"]["ready"] % trainer.accumulate_grad_batches  # time ends between micro-batches, too
        for counts in (epochs["current"], epochs["total"]):
            counts["processed"] -= 1
        for counts in (batches["current"], batches["total"]):
            counts.update({name: count - over for name, count in counts.items()})
