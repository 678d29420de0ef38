"""Where an epoch's time goes, as the paper defines it.

| key            | unit | meaning                                                                   |
|----------------|------|---------------------------------------------------------------------------|
| time/load_s    | s    | the loop waits for a batch                                                |
| time/train_s   | s    | copy to the device, forward, backward, step and metrics: running - loading |
| time/run_s     | s    | the training part of the epoch; validation and checkpoints are outside    |
| time/images_s  | 1/s  | images trained per second of running, over all devices                    |
"""

import time
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback


def synchronise(device: torch.device) -> None:
    """Waits until the device has done its work, so that a clock read next is true."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class EpochTime(Callback):
    """Measures and logs loading, training and running time per epoch; keeps the table.

    Attributes:
        rows: a dict per epoch with `epoch` and the keys above, without their prefix.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._images = 0

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        # Lightning starts no epoch when a run is resumed in the middle of one.
        self.on_train_epoch_start(trainer, module)

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: Any) -> None:
        synchronise(module.device)
        self._images = 0
        self._waited = trainer.train_dataloader.waited_s
        self._start = self._end = time.perf_counter()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._images += len(batch.labels)
        if trainer.is_last_batch:
            synchronise(module.device)
        self._end = time.perf_counter()  # validation and saving come after the last batch

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: Any) -> None:
        running = self._end - self._start
        loading = trainer.train_dataloader.waited_s - self._waited
        row = {
            "load_s": loading,
            "train_s": running - loading,
            "run_s": running,
            "images_s": self._images * trainer.world_size / max(running, 1e-9),
        }
        self.rows.append({"epoch": trainer.current_epoch, **row})
        module.log_dict({f"time/{key}": value for key, value in row.items()}, rank_zero_only=True)
