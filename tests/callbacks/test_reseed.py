import torch
from lightning.pytorch.callbacks import Callback

from hct_lightning.callbacks.reseed import Reseed


class Draws(Callback):
    """What a training step would draw."""

    def __init__(self) -> None:
        self.numbers: list[float] = []

    def on_train_batch_start(self, *_) -> None:
        self.numbers.append(torch.rand(()).item())


def draws(fit, seed: int = 0, **options) -> list[float]:
    drawn = Draws()
    fit(Reseed(seed=seed), drawn, **options)
    return drawn.numbers


def test_every_step_draws_its_own_whatever_was_drawn_before(fit):
    torch.manual_seed(1)
    first = draws(fit)
    torch.manual_seed(2)
    assert draws(fit) == first
    assert len(set(first)) == 4
    assert not set(first) & set(draws(fit, seed=1))


def test_a_resumed_run_draws_what_was_left(fit, half):
    assert draws(fit, ckpt_path=half) == draws(fit)[2:]


def test_micro_batches_of_a_step_draw_differently(fit):
    assert len(set(draws(fit, accumulate_grad_batches=2))) == 4
