"""Dropout that doesn't depend on what went before."""

from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback


class Reseed(Callback):
    """Seeds torch from (seed, step, rank, micro-batch) before each training batch.

    Lightning saves no state of random generators; with this none is needed: a run that was
    interrupted draws the dropout masks that it would have drawn.
    """

    def __init__(self, *, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: lightning.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        micro_batch = batch_idx % trainer.accumulate_grad_batches
        key = (self.seed, trainer.global_step, trainer.global_rank, micro_batch)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))
