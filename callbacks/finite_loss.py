"""Training that has gone wrong stops at once, before it spoils the last good checkpoint."""

from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback


class FiniteLoss(Callback):
    """Ends the run when the loss is NaN or infinite.

    Raises:
        ValueError: naming the step and what usually helps.
    """

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"]
        if not torch.isfinite(loss):
            raise ValueError(
                f"the loss is {loss.item()} at step {trainer.global_step} (epoch "
                f"{trainer.current_epoch + 1}, images {batch.index.tolist()} of the training split); "
                "use a smaller optim.lr, trainer.gradient_clip_val=1 or trainer.precision=32-true; "
                "checkpoints/last.ckpt is from before"
            )
