"""Where an epoch's time goes, as the paper defines it, and what ranks wait for each other.

| key            | unit | meaning                                                                      |
|----------------|------|------------------------------------------------------------------------------|
| time/load_s    | s    | the device waits for a batch                                                 |
| time/wait_s    | s    | backward is done, the gradients of the other ranks are not here yet          |
| time/train_s   | s    | copy to the device, forward, backward, step and metrics: what remains        |
| time/run_s     | s    | loading + training + waiting; validation and checkpoints are outside         |
| time/images_s  | 1/s  | images trained per second of running, over all ranks                         |

Each is the mean over ranks; `rows` keeps every rank's. The paper's training time includes the waiting.
"""

import time
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from hct_lightning.machine.clock import Stopwatch
from hct_lightning.machine.devices import synchronise

PARTS = ("load_s", "train_s", "wait_s", "run_s")


class GradientWait:
    """The time from a rank's last gradient to the end of the all-reduce, summed over steps.

    Before its last gradient a rank computes while the others are reduced; after it, it only waits.
    """

    def __init__(self, device: torch.device) -> None:
        self.time = Stopwatch(device)
        self._last: Any = None

    def hook(self, group: Any, bucket: torch.distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
        """DDP's own all-reduce, called when a bucket of gradients is complete."""
        self._last = self.time.now()
        return allreduce_hook(group, bucket)

    def backward_ended(self) -> None:
        if self._last is not None:
            self.time.add(self._last, self.time.now())
            self._last = None


class EpochTime(Callback):
    """Measures and logs where each epoch's time goes; keeps the table.

    Attributes:
        rows: a dict per epoch with `epoch`, `images_s`, the means of the other keys (without their
            prefix), and under `ranks` a dict of them per rank.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._images = 0
        self._wait: GradientWait  # made when training starts, on the module's device

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        self._wait = GradientWait(module.device)
        taken = getattr(trainer.strategy, "_ddp_comm_hook", None)  # a model has one hook
        if isinstance(trainer.model, DistributedDataParallel) and taken is None:
            trainer.model.register_comm_hook(None, self._wait.hook)
        # Lightning starts no epoch when a run is resumed in the middle of one.
        self.on_train_epoch_start(trainer, module)

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: Any) -> None:
        synchronise(module.device)
        self._images = 0
        self._loaded, self._waited = self._loading_s(trainer), self._waiting_s(trainer)
        self._start = self._end = time.perf_counter()

    @staticmethod
    def _loading_s(trainer: lightning.Trainer) -> float:
        """Seconds for which the device has waited for batches, since the loader was made."""
        loader: Any = trainer.train_dataloader
        assert loader is not None
        return loader.waited_s

    def _waiting_s(self, trainer: lightning.Trainer) -> float:
        """Seconds for which this rank has waited for others; a strategy of ours knows it itself."""
        return getattr(trainer.strategy, "waited_s", self._wait.time.total_s)

    def on_after_backward(self, trainer: lightning.Trainer, module: Any) -> None:
        self._wait.backward_ended()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._images += len(batch.index)  # of which there may be several crops
        if trainer.is_last_batch:
            synchronise(module.device)
        self._end = time.perf_counter()  # validation and saving come after the last batch

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: Any) -> None:
        running = self._end - self._start
        loading = self._loading_s(trainer) - self._loaded
        waiting = self._waiting_s(trainer) - self._waited
        mine = [loading, running - loading - waiting, waiting, running, self._images]
        everyone: list[Any] = [mine]
        if trainer.world_size > 1:
            everyone = [None] * trainer.world_size
            torch.distributed.all_gather_object(everyone, mine)
        if not any(images for *_, images in everyone):
            return  # resumed where an epoch's training was done, and only its end came
        ranks = [dict(zip(PARTS, row, strict=False)) for row in everyone]
        row = {part: sum(rank[part] for rank in ranks) / len(ranks) for part in PARTS}
        row["images_s"] = sum(images for *_, images in everyone) / max(row["run_s"], 1e-9)
        self.rows.append({"epoch": trainer.current_epoch, **row, "ranks": ranks})
        module.log_dict({f"time/{key}": value for key, value in row.items()}, rank_zero_only=True)
