"""A time for the training, in steps: `trainer.max_time` shapes schedules as `trainer.max_epochs` does."""

import math
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, Timer

from hct_lightning.training.progress import timer_of
from hct_lightning.training.resuming import StepSchedule


class TimeBudget(Callback):
    """Estimates after each epoch, validation included, how many steps the whole time is enough for.

    All ranks take the first one's estimate, and it is saved: within an epoch the rate depends on the step alone. Before
    the end of the first epoch there is none. Without a time, or where the epochs end sooner, nothing changes.
    A run that goes on with another time has as many more steps, or fewer.
    """

    def __init__(self) -> None:
        self.steps = math.inf
        self.allowed_s = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "allowed_s": self.allowed_s}

    def on_load_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        # Before optimisers and schedules come back, for their rates depend on it.
        saved, timer = checkpoint["callbacks"].get(self.state_key), timer_of(trainer)
        self.steps = saved["steps"] if saved and timer else math.inf
        if timer and self.steps < math.inf:
            self.allowed_s = _allowed_s(timer)
            self.steps *= self.allowed_s / (saved.get("allowed_s") or self.allowed_s)
        module.steps_in_time = self.steps

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: Any) -> None:
        if not (timer := timer_of(trainer)):
            return
        self.allowed_s = _allowed_s(timer)
        steps = trainer.global_step * self.allowed_s / timer.time_elapsed("train")
        self.steps = module.steps_in_time = trainer.strategy.broadcast(max(steps, trainer.global_step))
        for config in trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, StepSchedule):
                config.scheduler.apply()


def _allowed_s(timer: Timer) -> float:
    """`trainer.max_time`, which Lightning's Timer does not tell otherwise."""
    return timer._duration or 0.0
