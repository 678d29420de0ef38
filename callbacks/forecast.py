"""Says how long an epoch takes here, before a run that takes long, and what makes it short."""

import logging
import time
from typing import Any, cast

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from hct_lightning.machine.devices import synchronise
from hct_lightning.runs.console import duration
from hct_lightning.training.progress import timer_of

log = logging.getLogger(__name__)

WAITING = 0.3  # of the time: from there on a store is worth its making
LONG = 4  # times `measure_s`: in so long a batch the warm-up is little


class Forecast(Callback):
    """Times the first batches, on these devices and this data, and tells what follows from them.

    Nothing is run for it, and a short run hears nothing. Validation is not in it.

    Args:
        over_minutes: runs that are estimated to take less are not spoken of.
        measure_s: seconds of batches that are measured, two at least, after a first one that warms up.
            A first one that takes `LONG` times as long is enough by itself.

    Attributes:
        epoch_s: training of an epoch, 0 until it is known.
        left_s: training of the whole run from then on; infinite where it has no end.
    """

    def __init__(self, *, over_minutes: float, measure_s: float) -> None:
        self.over_minutes = over_minutes
        self.measure_s = measure_s
        self.epoch_s = self.left_s = 0.0
        self._batches = 0
        self._warming_up = True
        self._start = self._waited = self._paused = 0.0

    def on_validation_start(self, *_: Any) -> None:
        self._paused = time.perf_counter()

    def on_validation_end(self, *_: Any) -> None:
        self._start += time.perf_counter() - self._paused

    def on_train_batch_start(self, trainer: lightning.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if not self._batches:
            self._begin(trainer, module)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.epoch_s:
            return
        self._batches += 1
        enough = self._batches >= 2 or time.perf_counter() - self._start >= LONG * self.measure_s
        if enough and time.perf_counter() - self._start >= self.measure_s:
            synchronise(module.device)
            elapsed_s = time.perf_counter() - self._start
            waited_s = cast(Any, trainer.train_dataloader).waited_s - self._waited
            batch_s = elapsed_s / self._batches
            steps = trainer.estimated_stepping_batches - trainer.global_step
            self.epoch_s = batch_s * trainer.num_training_batches
            self.left_s = batch_s * steps * trainer.accumulate_grad_batches
            if min(self.left_s, _left_s(trainer)) > 60 * self.over_minutes:
                self._say(trainer, batch_s, waited_s / elapsed_s, _size_of(batch.images))
        elif self._warming_up:
            self._warming_up, self._batches = False, 0
            self._begin(trainer, module)

    def _begin(self, trainer: lightning.Trainer, module: Any) -> None:
        synchronise(module.device)
        loader: Any = trainer.train_dataloader
        self._start, self._waited = time.perf_counter(), loader.waited_s

    def _say(self, trainer: lightning.Trainer, batch_s: float, waiting: float, size: tuple[int, int, int]) -> None:
        of_ranks = f" on each of {trainer.world_size} ranks" if trainer.world_size > 1 else ""
        log.info(
            "training takes about %s an epoch here, %s in all, and validation comes on top: "
            "%.3g s for %d image(s) of %dx%d%s, measured over %d batch(es), %.0f %% of it waiting for images",
            duration(self.epoch_s),
            duration(self.left_s) if self.left_s < float("inf") else "without an end",
            batch_s,
            *size,
            of_ranks,
            self._batches,
            100 * waiting,
        )
        log.info("shorter: %s", "; ".join(advice(max(size[1:]), waiting, trainer.strategy.root_device.type)))


def _size_of(images: Any) -> tuple[int, int, int]:
    """Their number, height and width."""
    if isinstance(images, torch.Tensor):
        return images.shape[0], images.shape[2], images.shape[3]
    return 1, *images.shape[:2]  # one that is read by region


def _left_s(trainer: lightning.Trainer) -> float:
    """What `trainer.max_time` leaves of the run."""
    timer = timer_of(trainer)
    return timer.time_remaining() or 0.0 if timer else float("inf")


def advice(side: int, waiting: float, device_type: str) -> list[str]:
    """What makes an epoch short, the most helpful first.

    Args:
        side: of the images, pixels, the longer one.
        waiting: share of the time in which the loop waits for images.
        device_type: that trains.
    """
    help_ = []
    if device_type == "cpu":
        help_.append("a GPU")
    if waiting > WAITING:
        help_.append("task=prepare once, then data=store, for images that wait ready")
    help_.append(f"data.resolution={side // 2}, a quarter of the time")
    help_.append("data.limit=<images> and trainer.max_epochs=<fewer> for a trial")
    return help_
