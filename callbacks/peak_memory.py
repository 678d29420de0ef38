"""The most memory that training took.

| key             | unit | meaning                                                                                      |
|-----------------|------|----------------------------------------------------------------------------------------------|
| memory/peak_gib | GiB  | CUDA: the most allocated at once; MPS: taken by its driver; CPU: resident set of the process |
"""

from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from hct_lightning.machine.devices import peak_memory_gib


class PeakMemory(Callback):
    """Logs the peak at the end of each epoch."""

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: Any) -> None:
        module.log("memory/peak_gib", peak_memory_gib(module.device), rank_zero_only=True)
