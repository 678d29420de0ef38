"""The most memory that training took.

| key              | unit | meaning                                                        |
|------------------|------|----------------------------------------------------------------|
| memory/peak_gib  | GiB  | GPU: the most allocated at once; CPU: resident set of the process |
"""

from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from hct_lightning.machine.high_water import peak_gib


def peak_memory_gib(device: torch.device) -> float:
    """The high-water mark since the start of the process (CPU) or of counting (GPU)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return peak_gib()


class PeakMemory(Callback):
    """Logs the peak at the end of each epoch."""

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: Any) -> None:
        module.log("memory/peak_gib", peak_memory_gib(module.device), rank_zero_only=True)
