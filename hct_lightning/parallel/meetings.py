"""Where the ranks of a strategy that waits for nobody wait for each other all the same."""

import math
from collections.abc import Callable
from typing import Any


def meetings(trainer: Any) -> Callable[[int], bool]:
    """Tells the versions at which all ranks have something to do together."""
    parts = trainer.accumulate_grad_batches
    epoch = math.ceil(trainer.num_training_batches / parts)
    every = {epoch}
    for callback in trainer.callbacks:  # those that save in between
        every.add(getattr(callback, "every_steps", None) or getattr(callback, "_every_n_train_steps", None) or epoch)
    validates = trainer.val_check_batch  # batches
    in_epochs = trainer.check_val_every_n_epoch is not None

    def meets(version: int) -> bool:
        batch = (version % epoch if in_epochs else version) * parts
        return (
            version == trainer.max_steps
            or any(version % steps == 0 for steps in every)
            or (validates != math.inf and batch % validates == 0)
        )

    return meets
