"""How long a training is, in steps or by the clock, and whether it is over."""

import math
from typing import Any, cast

import lightning
from lightning.pytorch.callbacks import Timer


def total_steps(trainer: lightning.Trainer) -> float:
    """Optimiser steps of the whole training: those of its epochs, or fewer where its time ends first.

    Infinite where neither is known: a callback ends it, or a time that no epoch has been measured against yet.
    """
    module = trainer.lightning_module
    return min(trainer.estimated_stepping_batches, getattr(module, "steps_in_time", math.inf))


def timer_of(trainer: lightning.Trainer) -> Timer | None:
    """Lightning's for `trainer.max_time`, where there is one."""
    callbacks: list[Any] = cast(Any, trainer).callbacks
    return next((callback for callback in callbacks if isinstance(callback, Timer)), None)


def is_over(trainer: lightning.Trainer) -> bool:
    """Whether training ends with the batch that has just been trained on; the same on all ranks.

    That its time is over is known in `on_train_batch_end` after Lightning's Timer: to callbacks that are a `Checkpoint`.
    """
    loop: Any = trainer.fit_loop
    epochs = trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
    steps = 0 < trainer.max_steps <= trainer.global_step
    return epochs or steps or (trainer.should_stop and loop._can_stop_early)
