import math

from hct_lightning.training.progress import total_steps


class Trainer:
    """What is asked of a trainer."""

    def __init__(self, steps: float, steps_in_time: float) -> None:
        self.estimated_stepping_batches = steps
        self.lightning_module = self
        self.steps_in_time = steps_in_time


def test_epochs_or_time_whichever_ends_first():
    assert total_steps(Trainer(100, math.inf)) == 100
    assert total_steps(Trainer(100, 40)) == 40
    assert total_steps(Trainer(math.inf, math.inf)) == math.inf
