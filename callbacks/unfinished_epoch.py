"""Where within its epochs a run goes on."""

from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback


class UnfinishedEpoch(Callback):
    """Goes on within an epoch that `trainer.max_steps` or `trainer.max_time` ended, and behind one that had all its steps.

    Lightning would begin the next one where steps or time had ended one, whose remaining steps would be missing in the
    end. It would add a step to one whose last validation saved the checkpoint, where no validation is due there now.
    And with `trainer.max_steps` it would take every epoch for one that was interrupted.
    """

    def on_load_checkpoint(self, trainer: lightning.Trainer, module: Any, checkpoint: dict) -> None:
        loop: Any = trainer.fit_loop
        loop._iteration_based_training = lambda: False  # what it says is asked for nothing else
        saved = checkpoint["loops"]["fit_loop"]
        epochs, batches = saved["epoch_progress"], saved["epoch_loop.batch_progress"]
        ended = 0 < epochs["current"]["processed"] == epochs["current"]["ready"]
        whole = batches["is_last_batch"] and batches["current"]["completed"] == batches["current"]["ready"]
        for counts in (epochs["current"], epochs["total"]):
            counts["processed"] += whole - ended
        if ended and not whole:
            over = batches["current"]["ready"] % trainer.accumulate_grad_batches  # time ends between micro-batches, too
            for counts in (batches["current"], batches["total"]):
                counts.update({name: count - over for name, count in counts.items()})
