import math

import lightning

from hct_lightning.training.progress import timer_of, total_steps


class Trainer:
    """What is asked of a trainer."""

    def __init__(self, steps: float, steps_in_time: float) -> None:
        self.estimated_stepping_batches = steps
        self.lightning_module = self
        self.steps_in_time = steps_in_time


def test_the_clock_of_a_run_is_lightnings():
    for max_time, s in (("00:00:00:09", 9), (None, None)):
        timer = timer_of(lightning.Trainer(max_time=max_time, accelerator="cpu", logger=False))
        assert (timer and timer.time_remaining()) == s


def test_epochs_or_time_whichever_ends_first():
    assert total_steps(Trainer(100, math.inf)) == 100
    assert total_steps(Trainer(100, 40)) == 40
    assert total_steps(Trainer(math.inf, math.inf)) == math.inf
