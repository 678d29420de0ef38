"""BatchNorm with fixed statistics, for fine-tuning with few images per device."""

from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from torch import nn


class FreezeBatchNorm(Callback):
    """Keeps every BatchNorm in eval mode: it normalises by its running statistics as loaded.

    Its weight and bias still train. The result then does not depend on how a batch is divided over
    devices and micro-batches.
    """

    def on_train_batch_start(self, trainer: lightning.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        for layer in module.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.eval()
