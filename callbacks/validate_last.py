"""However training ends, the weights that it ends with are validated."""

from typing import Any

import lightning
from lightning.pytorch.callbacks import Checkpoint

from hct_lightning.training.progress import is_over


class ValidateLast(Checkpoint):
    """Makes Lightning validate after the last step, whether epochs, `trainer.max_steps` or `trainer.max_time` end it.

    Else a run of 25 epochs that validates every ten would keep the network of its twentieth as the best, before the rate
    has come down, and one that ends within an epoch, or before the tenth, would keep an older one or none.

    It saves nothing. Lightning calls those that do last, after its Timer, which says that the time is over.
    """

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if not is_over(trainer):
            return
        trainer.should_stop = True  # Lightning then validates within an epoch, too
        if trainer.check_val_every_n_epoch is not None:
            trainer.check_val_every_n_epoch = 1
