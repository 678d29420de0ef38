"""The last of `trainer.max_epochs` is validated, whatever `trainer.check_val_every_n_epoch` says."""

from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback


class ValidateLast(Callback):
    """Makes Lightning validate after the last of `trainer.max_epochs`, too.

    Else a run of 25 epochs that validates every ten would keep the network of its twentieth as the best, before the rate
    has come down, and one of fewer than ten would keep none.
    """

    # Lightning starts no epoch when a run is resumed in the middle of one.
    def on_train_batch_start(self, trainer: lightning.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        every = trainer.check_val_every_n_epoch
        if every is not None and trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1
