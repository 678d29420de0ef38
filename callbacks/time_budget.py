"""A time for the training, in steps: `trainer.max_time` shapes schedules as `trainer.max_epochs` does."""

import math
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, Timer

from hct_lightning.training.resuming import StepSchedule


class TimeBudget(Callback):
    """Estimates after each epoch, validation included, how many steps the whole time is enough for.

    All ranks take the first one's estimate, and it is saved: within an epoch the rate depends on the step alone. Before
    the end of the first epoch there is none. Without a time, or where the epochs end sooner, nothing changes.
    """

    def __init__(self) -> None:
        self.steps = math.inf

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def on_load_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        # Before optimisers and schedules come back, for their rates depend on it.
        saved = checkpoint["callbacks"].get(self.state_key)
        self.steps = module.steps_in_time = saved["steps"] if saved and _timer(trainer) else math.inf

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: Any) -> None:
        if not (timer := _timer(trainer)):
            return
        allowed_s = timer.time_elapsed("train") + (timer.time_remaining("train") or 0.0)
        steps = trainer.global_step * allowed_s / timer.time_elapsed("train")
        self.steps = module.steps_in_time = trainer.strategy.broadcast(max(steps, trainer.global_step))
        for config in trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, StepSchedule):
                config.scheduler.apply()


def _timer(trainer: Any) -> Timer | None:
    """Lightning's for `trainer.max_time`."""
    return next((callback for callback in trainer.callbacks if isinstance(callback, Timer)), None)
