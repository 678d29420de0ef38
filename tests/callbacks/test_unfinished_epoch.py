"""Runs that were ended within an epoch, or at its end, and go on for longer."""

from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, LambdaCallback, timer

from hct_lightning.callbacks.average_weights import AverageWeights
from hct_lightning.callbacks.batch_norm import BatchNormStatistics
from hct_lightning.callbacks.last_checkpoint import LastCheckpoint
from hct_lightning.callbacks.unfinished_epoch import UnfinishedEpoch
from hct_lightning.callbacks.validate_last import ValidateLast


class Steps(Callback):
    """Epoch, batch, images and step of each batch."""

    def __init__(self) -> None:
        self.steps: list[tuple[Any, ...]] = []

    def setup(self, trainer, module, stage) -> None:
        trainer.datamodule.micro_batches = trainer.accumulate_grad_batches

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.steps.append((trainer.current_epoch, batch_idx, batch.index.tolist(), trainer.global_step))


def callbacks(steps: Steps, *others: Callback) -> list[Callback]:
    return [*others, steps, UnfinishedEpoch(), ValidateLast(), LastCheckpoint(every_minutes=None, every_steps=None)]


def averages() -> tuple[Callback, Callback]:
    return AverageWeights(span=0.5), BatchNormStatistics(images=1000, freeze=0.0)


@pytest.mark.parametrize("length", [{"max_steps": 10}, {"max_steps": -1}])
@pytest.mark.parametrize("first", [4, 6])  # of four an epoch
def test_with_more_steps_it_ends_bitwise_where_an_undisturbed_one_does(fit, classifier, tmp_path, length, first):
    """What trains, its averages and their statistics."""
    classifier.drop.p = 0.0
    options = {"max_epochs": 3, "enable_checkpointing": True}
    last = tmp_path / "checkpoints" / "last.ckpt"
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    whole, parts = Steps(), Steps()
    fit(*callbacks(whole, *averages()), **options, **length)
    wanted = torch.load(last, weights_only=True)
    classifier.load_state_dict(before)
    fit(*callbacks(parts, *averages()), **options, max_steps=first)
    fit(*callbacks(parts, *averages()), **options, **length, ckpt_path=last)
    found = torch.load(last, weights_only=True)
    assert parts.steps == whole.steps
    for key in ("state_dict", "current_model_state"):
        assert all(torch.equal(value, wanted[key][name]) for name, value in found[key].items())


def test_with_more_time_too_where_it_was_over_between_micro_batches(fit, clock, monkeypatch, tmp_path):
    monkeypatch.setattr(timer, "time", clock)
    options = {"max_epochs": 3, "accumulate_grad_batches": 2, "enable_checkpointing": True}
    whole, parts = Steps(), Steps()
    fit(*callbacks(whole), **options)
    pause = LambdaCallback(on_train_batch_end=lambda *_: clock.sleep(0.4))
    for i in range(2):
        last = {"ckpt_path": tmp_path / "checkpoints" / "last.ckpt"} if i else {}
        fit(*callbacks(parts), pause, **options, max_time={"seconds": 100 if i else 1}, **last)
        if not i:
            assert len(parts.steps) == 3  # of which the third made no step, and is trained on again
            parts.steps.pop()
    assert parts.steps == whole.steps


@pytest.mark.parametrize("rare", [{"val_check_interval": 3}, {"check_val_every_n_epoch": 10}])
@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_behind_the_last_validation_of_an_epoch_comes_the_next_one(fit, tmp_path, rare):
    """Back at the best, which was saved there."""
    whole, parts = Steps(), Steps()
    options = {"enable_checkpointing": True, **rare}
    fit(*callbacks(whole), max_epochs=2, **options)
    file = tmp_path / "best.ckpt"
    saves = LambdaCallback(on_validation_end=lambda trainer, _: trainer.save_checkpoint(file))
    fit(*callbacks(parts), saves, max_epochs=1, **options)
    fit(*callbacks(parts), max_epochs=2, **options, ckpt_path=file)
    assert parts.steps == whole.steps
