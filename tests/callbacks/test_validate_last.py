from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, Timer

from hct_lightning.callbacks.average_weights import AverageWeights
from hct_lightning.callbacks.batch_norm import BatchNormStatistics
from hct_lightning.callbacks.last_checkpoint import LastCheckpoint
from hct_lightning.callbacks.validate_last import ValidateLast
from hct_lightning.runs.signals import Terminated


class Steps(Callback):
    """Those after which was validated, and the weights."""

    def __init__(self) -> None:
        self.validated: list[int] = []
        self.weights: dict[str, torch.Tensor] = {}

    def on_validation_batch_end(self, trainer: lightning.Trainer, module: Any, *_: Any) -> None:
        self.weights = {name: value.clone() for name, value in module.state_dict().items()}

    def on_validation_end(self, trainer: lightning.Trainer, module: Any) -> None:
        self.validated.append(trainer.global_step)


class OverAfter(Callback):
    """The time is over in a batch, counted from 1; Lightning's Timer says so when it ends."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.batch -= 1
        if not self.batch:
            next(callback for callback in trainer.callbacks if isinstance(callback, Timer))._duration = 0.0


@pytest.mark.parametrize(
    ("options", "validated"),  # an epoch has four steps
    [
        ({"max_epochs": 5, "check_val_every_n_epoch": 2}, [8, 16, 20]),
        ({"max_epochs": 4, "check_val_every_n_epoch": 2}, [8, 16]),
        ({"max_epochs": 2, "check_val_every_n_epoch": 10}, [8]),
        ({"max_epochs": 2}, [4, 8]),
        ({"max_epochs": 2, "val_check_interval": 3}, [3, 7, 8]),
        ({"max_epochs": 2, "val_check_interval": 3, "check_val_every_n_epoch": None}, [3, 6, 8]),
        ({"max_epochs": 2, "limit_val_batches": 0}, []),
        ({"max_epochs": 2, "limit_train_batches": 3, "check_val_every_n_epoch": 10}, [6]),
        ({"max_epochs": 5, "max_steps": 6}, [4, 6]),
        ({"max_epochs": 5, "max_steps": 8}, [4, 8]),
        ({"max_epochs": -1, "max_steps": 6, "check_val_every_n_epoch": 10}, [6]),
        ({"max_epochs": -1, "max_steps": 3, "accumulate_grad_batches": 2}, [2, 3]),
        ({"max_epochs": 5, "over": 6}, [4, 6]),
        ({"max_epochs": -1, "over": 6, "check_val_every_n_epoch": 10}, [6]),
        ({"max_epochs": -1, "over": 8, "check_val_every_n_epoch": 10}, [8]),
        ({"max_epochs": -1, "over": 3, "accumulate_grad_batches": 2, "check_val_every_n_epoch": 10}, [1]),
    ],
)
def test_what_training_ends_with_is_validated_once_and_may_be_the_best(fit, tmp_path, options, validated):
    steps = Steps()
    callbacks: list[Callback] = [steps, ValidateLast(), *(last_and_best(tmp_path))]
    if over := options.pop("over", None):
        options["max_time"] = {"hours": 1}
        callbacks.append(OverAfter(over))
    trainer = fit(*callbacks, enable_checkpointing=True, **options)
    assert steps.validated == validated
    if validated:
        assert validated[-1] == trainer.global_step
        best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
        assert all(torch.equal(value, steps.weights[name]) for name, value in best["state_dict"].items())


def last_and_best(folder: Any) -> list[Callback]:
    """The best is the last, whatever its accuracy."""
    best = ModelCheckpoint(folder / "checkpoints", "best", enable_version_counter=False)
    return [best, LastCheckpoint(every_minutes=None, every_steps=1)]


def test_averages_with_statistics_of_their_own_are_what_is_validated_last(fit, classifier, tmp_path):
    steps = Steps()
    average, statistics = AverageWeights(span=0.5), BatchNormStatistics(images=1000, freeze=0.0)
    callbacks = [average, statistics, steps, ValidateLast(), *last_and_best(tmp_path)]
    fit(*callbacks, enable_checkpointing=True, max_epochs=-1, max_steps=6, check_val_every_n_epoch=10)
    assert steps.validated == [6]
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    for name, value in steps.weights.items():
        assert torch.equal(best["state_dict"][name], value), name
        assert torch.equal(last["state_dict"][name], value), name
        assert torch.equal(classifier.state_dict()[name], value), name  # what is left when training has ended
    assert not torch.equal(last["current_model_state"]["head.weight"], steps.weights["head.weight"])


def test_a_run_that_goes_on_in_its_last_epoch_is_validated_too(fit, half):
    steps = Steps()
    fit(steps, ValidateLast(), max_epochs=1, check_val_every_n_epoch=10, ckpt_path=half, enable_checkpointing=True)
    assert steps.validated == [4]


class Interrupted(Callback):
    def on_validation_batch_start(self, *_: Any) -> None:
        raise Terminated


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize("options", [{"max_steps": 6}, {"max_time": {"hours": 1}}])
def test_interrupted_there_it_comes_to_the_same_end(fit, classifier, tmp_path, options):
    """What was saved last is from before, so that the end comes again."""
    rare = {"max_epochs": -1, "check_val_every_n_epoch": 10, "enable_checkpointing": True}
    timed = "max_time" in options

    def run(*others: Callback, over: int, **more: Any) -> dict[str, torch.Tensor]:
        steps = Steps()
        ends = [OverAfter(over)] if timed else []
        fit(*others, steps, *ends, ValidateLast(), *last_and_best(tmp_path), **rare, **options, **more)
        assert steps.validated == [6]
        return steps.weights

    classifier.drop.p = 0.0
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    wanted = run(over=6)
    classifier.load_state_dict(before)
    with pytest.raises(Terminated):
        run(Interrupted(), over=6)
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 5
    classifier.train()  # as in a new process
    found = run(over=1, ckpt_path=last)
    assert all(torch.equal(value, found[name]) for name, value in wanted.items())
