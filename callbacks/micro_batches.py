"""The global batch in parts that fit the memory."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from hct_lightning.runs.folder import Run

log = logging.getLogger(__name__)


class MicroBatches(Callback):
    """Divides each rank's share of the global batch; every image weighs the same in the step.

    Args:
        global_batch: images per optimiser step, over all ranks.
        plan: from (device, images of a rank) to the number of micro-batches and what they keep for
            the backward pass, `speed` or `low` (see `hct_lightning.training.memory`); rank 0 calls
            it for all.
    """

    def __init__(self, global_batch: int, plan: Callable[[torch.device, int], tuple[int, str]]) -> None:
        self.global_batch = global_batch
        self.plan = plan

    def setup(self, trainer: lightning.Trainer, module: Any, stage: str) -> None:
        if stage != "fit":
            return
        world = trainer.world_size
        least = self.global_batch // world  # shares differ by one when world does not divide it
        most = -(-self.global_batch // world)
        decided = None
        if trainer.is_global_zero:
            try:
                decided = self.plan(trainer.strategy.root_device, most)
            except ValueError as error:
                decided = error
        decided = trainer.strategy.broadcast(decided)
        if isinstance(decided, ValueError):
            raise decided  # on every rank, so that none waits for another
        parts, memory = decided
        if parts <= most:  # else the sampler says why it can't be
            parts = min(parts, max(1, least))
        if memory == "low":
            module.network.set_grad_checkpointing()
            log.info("memory=low: the backward pass computes again what is not kept")
        # A resumed run on as many ranks does the same, whatever memory it finds: see tasks/fit.py.
        plan = {"ranks": world, "micro_batches": parts, "memory": memory}
        Run(Path(trainer.default_root_dir), writes=trainer.is_global_zero).update(memory_plan=plan)
        trainer.accumulate_grad_batches = parts
        trainer.datamodule.global_batch = self.global_batch
        trainer.datamodule.micro_batches = parts
        module.images_per_backward = self.global_batch / (world * parts)
        if parts > 1:
            log.info(
                "global batch of %d in %d micro-batches of about %.3g images a rank",
                self.global_batch,
                parts,
                module.images_per_backward,
            )

    def on_save_checkpoint(self, trainer: lightning.Trainer, module: Any, checkpoint: dict) -> None:
        checkpoint["micro_batches"] = trainer.accumulate_grad_batches

    def on_load_checkpoint(self, trainer: lightning.Trainer, module: Any, checkpoint: dict) -> None:
        """Lightning counts an epoch in micro-batches; a resumed run may have others."""
        before = checkpoint.get("micro_batches", trainer.accumulate_grad_batches)
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["current"], progress["total"]):
            unfinished = counts["processed"] - counts["completed"]  # the batch that saved
            for name in ("ready", "started", "processed"):
                counts[name] = counts[name] * trainer.accumulate_grad_batches // before
            counts["completed"] = counts["processed"] - unfinished
