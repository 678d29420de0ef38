"""What all ranks decide together when a step ends: to save `last.ckpt`, to end, or that training has gone wrong.

None waits for the others or for its device. What a rank has to say goes out as a few numbers at the end of a step, and
is heard by all at the end of the next one, so they act at the same step. A loss is read when the step after it has
been handed to the device. Only a save waits, until the losses of all steps so far are known to be finite on all ranks.
"""

import logging
import math
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn

import lightning
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from hct_lightning.runs.signals import Preempted, Terminated, slurm_notices
from hct_lightning.training.progress import is_over

log = logging.getLogger(__name__)

NEVER = -(2**62)


class Words(NamedTuple):
    """What a rank says at the end of a step. Of all ranks' words the largest count.

    told: a signal has come to end.
    noticed: Slurm's was among them.
    due: the last checkpoint is old.
    broken: minus the first step whose loss was not finite, so that the largest is the earliest; else `NEVER`.
    """

    told: int = False
    noticed: int = False
    due: int = False
    broken: int = NEVER


class Exchange:
    """Carries the words of all ranks to all, on the host, beside what the devices exchange."""

    def __init__(self, ranks: int) -> None:
        self._group: Any = dist.new_group(backend="gloo") if ranks > 1 else None
        self._words: Tensor | None = None
        self._work: Any = None

    def send(self, words: Words) -> None:
        self._words = torch.tensor(words)
        if self._group:
            self._work = dist.all_reduce(self._words, dist.ReduceOp.MAX, self._group, async_op=True)

    def receive(self) -> Words:
        """What was sent before; waits for the slowest rank to send it."""
        if self._words is None:
            return Words()
        if self._group:
            self._work.wait()
        words, self._words = Words(*self._words.tolist()), None
        return words


class Carried:
    """The same over a strategy whose ranks are not at the same step: the words go with its gradients.

    A step later, or some, all ranks meet at one, and there hear the words of all.
    """

    def __init__(self, strategy: Any) -> None:
        self._strategy = strategy
        self._heard: Words | None = None

    def send(self, words: Words) -> None:
        if self._strategy.together:
            largest = torch.tensor(words, device=self._strategy.root_device)
            dist.all_reduce(largest, dist.ReduceOp.MAX)
            self._heard = Words(*largest.tolist())
        elif words != Words():
            self._strategy.tell(words)

    def receive(self) -> Words:
        heard, self._heard = self._heard or self._strategy.heard(), None
        return Words(*heard) if heard else Words()


class Loss(NamedTuple):
    """The loss of a step on its way to the host.

    value: on the host as soon as the device has passed `copied`, an event; at once where that is None.
    images: indices of the images that it is the loss of.
    """

    step: int
    epoch: int
    images: list[int]
    value: Tensor
    copied: Any

    @classmethod
    def sent(cls, step: int, epoch: int, images: list[int], loss: Tensor) -> "Loss":
        if loss.device.type != "cuda":
            return cls(step, epoch, images, loss, None)
        value = loss.to("cpu", non_blocking=True)  # pinned
        return cls(step, epoch, images, value, torch.cuda.current_stream(loss.device).record_event())

    def read(self) -> float:
        if self.copied:
            self.copied.synchronize()
        return self.value.item()

    def complaint(self) -> str:
        return (
            f"the loss is {self.read()} at step {self.step} (epoch {self.epoch + 1}, images {self.images} of the "
            "training split); use a smaller optim.lr, trainer.gradient_clip_val=1 or trainer.precision=32-true; "
            "checkpoints/last.ckpt is from before"
        )


class LastCheckpoint(Checkpoint):
    """Keeps `checkpoints/last.ckpt` current, and ends training with it when that is asked for.

    It is saved after each epoch, in between when it is old, and before training ends after SIGTERM or one of
    `slurm_notices` to any rank. In a validation pass, and while statistics are measured for it, such a signal ends
    training without saving: the checkpoint is from before the pass. Lightning's own handler is replaced, because it
    enters a collective wherever the signal happens to come, and now and then waits there for ever.

    Args:
        every_minutes: also save when the last one is this old, after an optimiser step; None: not.
        every_steps: also save after every so many optimiser steps; None: not.

    Raises:
        Terminated: on every rank; `Preempted` when any of them had Slurm's notice.
        ValueError: when the loss is NaN or infinite, naming the step and what usually helps.
    """

    def __init__(self, *, every_minutes: float | None, every_steps: int | None) -> None:
        self.every_minutes = every_minutes
        self.every_steps = every_steps
        self._exchange: Exchange | Carried
        self._saved_at = time.monotonic()
        self._step = -1
        self._told: set[int] = set()
        self._loss: Tensor | None = None  # of the micro-batches of a step so far, summed
        self._images: list[int] = []  # of those
        self._arriving: Loss | None = None
        self._broken: Loss | None = None  # the first that was not finite

    def setup(self, trainer: lightning.Trainer, module: Any, stage: str) -> None:
        apart = hasattr(trainer.strategy, "together")
        self._exchange = Carried(trainer.strategy) if apart else Exchange(trainer.world_size)

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        self._saved_at = time.monotonic()
        self._step = trainer.global_step
        for number in (signal.SIGTERM, *slurm_notices()):
            signal.signal(number, self._note)  # Lightning restores the one before it in the end
        # Before each batch Lightning would wait for rank 0 to say whether its handler was called.
        loop: Any = trainer.fit_loop.epoch_loop
        loop._broadcast_sigterm_tensor = lambda: None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._told.add(number)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"] if self._loss is None else self._loss + outputs["loss"]
        images = self._images + batch.index.tolist()
        if trainer.global_step == self._step:
            self._loss, self._images = loss, images
            return  # between the micro-batches of a step there is nothing to go on from
        self._loss, self._images, self._step = None, [], trainer.global_step
        before, self._arriving = self._arriving, Loss.sent(self._step, trainer.current_epoch, images, loss)
        if trainer.is_last_batch or is_over(trainer):
            self._look_at(before)
            return  # the epoch's end decides, after validation
        heard = self._hear()
        self._look_at(before)
        self._exchange.send(self._words())
        left = trainer.num_training_batches - 1 - batch_idx
        # Before the next validation it is the last step to save at: who is told, says so now.
        if left <= trainer.accumulate_grad_batches or self._step + 1 == trainer.max_steps:
            heard = self._hear_now()
        if heard.told or heard.due or (self.every_steps and self._step % self.every_steps == 0):
            self._save(trainer)

    def on_validation_start(self, trainer: lightning.Trainer, module: Any) -> None:
        if self._arriving:  # a broken network must not be validated and become the best
            self._hear_now()

    def on_validation_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if not trainer.sanity_checking:
            self.listen()

    def listen(self) -> None:
        """Ends training, without saving, where that was asked for; every rank calls it as often."""
        heard = self._hear()
        self._exchange.send(self._words())
        if heard.told:
            _end(heard)

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: Any) -> None:
        self._save(trainer)

    def _save(self, trainer: lightning.Trainer) -> None:
        heard = self._hear_now()
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt")
        self._saved_at = time.monotonic()
        if heard.told:
            log.info("told to end: saved step %d in checkpoints/last.ckpt", trainer.global_step)
            _end(heard)

    def _look_at(self, loss: Loss | None) -> None:
        if loss and not math.isfinite(loss.read()):
            self._broken = self._broken or loss

    def _words(self) -> Words:
        age_s = time.monotonic() - self._saved_at
        return Words(
            told=bool(self._told),
            noticed=bool(self._told & slurm_notices()),
            due=age_s >= 60 * (self.every_minutes or math.inf),
            broken=-self._broken.step if self._broken else NEVER,
        )

    def _hear(self) -> Words:
        """What all ranks said when this was last sent; raises when training has gone wrong for one of them."""
        heard = self._exchange.receive()
        if heard.broken != NEVER:
            if self._broken and self._broken.step == -heard.broken:
                raise ValueError(self._broken.complaint())
            raise RuntimeError(f"the loss of another rank is not finite at step {-heard.broken}")
        return heard

    def _hear_now(self) -> Words:
        """What all ranks have to say at this step, its loss included."""
        self._hear()
        arriving, self._arriving = self._arriving, None
        self._look_at(arriving)
        self._exchange.send(self._words())
        return self._hear()


def _end(heard: Words) -> NoReturn:
    raise Preempted if heard.noticed else Terminated
