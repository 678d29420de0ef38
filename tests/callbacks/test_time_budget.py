import math
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, timer

from hct_lightning.callbacks.time_budget import TimeBudget
from hct_lightning.training.progress import total_steps
from hct_lightning.training.resuming import StepSchedule


class Slow(Callback):
    """Steps of a known length; what the whole training was thought to be, after each epoch."""

    def __init__(self, clock: Any) -> None:
        self.clock = clock
        self.estimates: list[float] = []

    def on_train_batch_start(self, *_) -> None:
        self.clock.sleep(0.05)

    def on_train_epoch_end(self, trainer, module) -> None:
        self.estimates.append(total_steps(trainer))


class First(Callback):
    """The rate of the first step, which is the last one, too."""

    def on_train_batch_start(self, trainer, *_) -> None:
        self.rate = trainer.optimizers[0].param_groups[0]["lr"]
        trainer.should_stop = True


@pytest.fixture
def scheduled(classifier):
    """Its rate is the number of steps that the training is thought to have."""

    def configure_optimizers() -> dict:
        optimizer = torch.optim.SGD(classifier.parameters(), 1.0)
        schedule = StepSchedule(optimizer, lambda step: min(1e6, total_steps(classifier.trainer)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    classifier.configure_optimizers = configure_optimizers
    return classifier


def test_the_steps_of_the_time_are_known_after_an_epoch_and_saved(fit, scheduled, clock, monkeypatch, tmp_path):
    monkeypatch.setattr(timer, "time", clock)
    budget, slow = TimeBudget(), Slow(clock)
    trainer = fit(budget, slow, max_epochs=-1, max_time={"seconds": 2})
    assert slow.estimates[-2:] == pytest.approx([trainer.global_step] * 2, rel=0.03)
    assert scheduled.steps_in_time == budget.steps
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    assert trainer.optimizers[0].param_groups[0]["lr"] == budget.steps
    again = TimeBudget()
    resumed = fit(again, max_epochs=-1, max_time={"seconds": 2}, ckpt_path=tmp_path / "end.ckpt")
    assert resumed.global_step == trainer.global_step  # its time was over
    assert again.steps == budget.steps
    first = First()  # with more time it has more steps at once, and not from its next epoch on
    fit(TimeBudget(), first, max_epochs=-1, max_time={"seconds": 6}, ckpt_path=tmp_path / "end.ckpt")
    assert first.rate == pytest.approx(3 * budget.steps)


def test_epochs_that_end_sooner_count_and_without_a_time_nothing_is_said(fit, clock):
    slow = Slow(clock)
    fit(TimeBudget(), slow, max_epochs=1, max_time={"hours": 1})
    assert slow.estimates == [4]
    budget = TimeBudget()
    fit(budget, max_epochs=1)
    assert budget.steps == math.inf
