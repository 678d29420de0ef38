"""When statistics are measured and frozen. How they are measured: tests/training/test_batch_norm.py."""

import signal
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback

from hct_lightning.callbacks.average_weights import AverageWeights
from hct_lightning.callbacks.batch_norm import BatchNormStatistics, _gather
from hct_lightning.callbacks.last_checkpoint import LastCheckpoint
from hct_lightning.models import HCT, FromPixels
from hct_lightning.runs.signals import Terminated
from hct_lightning.training.batch_norm import measure_statistics


class Saved(Callback):
    """The state before each batch, at each validation, and a checkpoint after each validation."""

    def __init__(self, folder: Any = None) -> None:
        self.folder = folder
        self.training: list[dict[str, torch.Tensor]] = []
        self.validated: list[dict[str, torch.Tensor]] = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        self.training.append({name: value.clone() for name, value in module.state_dict().items()})

    def on_validation_batch_start(self, trainer, module, *_) -> None:
        self.validated.append({name: value.clone() for name, value in module.state_dict().items()})

    def on_validation_end(self, trainer, module) -> None:
        if self.folder:
            trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}.ckpt")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def expected(trainer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the pixels that the only BatchNorm sees: mean and variance over all training images."""
    split = trainer.datamodule.dataset.catalogue.train
    images = trainer.datamodule.dataset.images(split)
    pixels = torch.stack([images[i][0] for i in range(len(images))]).double() / 255
    return pixels.mean((0, 2, 3)), pixels.var((0, 2, 3))


def test_validation_has_measured_statistics_and_the_checkpoint_too(fit, tmp_path):
    saved = Saved(tmp_path)
    # Augmented images would have other statistics.
    trainer = fit(saved, BatchNormStatistics(images=1000, freeze=0.0), data={"augment": {"brightness": 0.9}})
    mean, variance = expected(trainer)
    torch.testing.assert_close(saved.validated[0]["norm.running_mean"].double(), mean, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(saved.validated[0]["norm.running_var"].double(), variance, rtol=1e-3, atol=1e-6)
    assert same(saved.validated[0], torch.load(tmp_path / "0.ckpt", weights_only=True)["state_dict"])


def test_without_images_they_follow_the_batches(fit, classifier):
    fit(BatchNormStatistics(images=0, freeze=0.0))
    assert classifier.norm.num_batches_tracked == 4
    assert not torch.equal(classifier.norm.running_mean, torch.zeros(3))


@pytest.mark.parametrize("length", [{"max_epochs": 2}, {"max_epochs": -1, "max_time": "00:00:00:02"}])
def test_frozen_for_the_whole_training_they_stay_as_loaded(fit, classifier, length):
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    fit(BatchNormStatistics(images=1000, freeze=1.0), **length)  # validation puts the module into train mode again
    after = classifier.state_dict()
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(after[f"norm.{name}"], before[f"norm.{name}"])
    for name in ("norm.weight", "norm.bias", "head.weight"):
        assert not torch.equal(after[name], before[name])


def test_frozen_for_the_last_part_they_are_measured_first(fit):
    saved, statistics = Saved(), BatchNormStatistics(images=1000, freeze=0.5)
    trainer = fit(saved, statistics, max_epochs=3)
    means = [state["norm.running_mean"] for state in saved.training]
    assert len({tuple(mean.tolist()) for mean in means[:8]}) == 8  # of three epochs of four steps the third is frozen
    assert len({tuple(mean.tolist()) for mean in means[8:]}) == 1
    torch.testing.assert_close(means[8].double(), expected(trainer)[0], rtol=1e-4, atol=1e-6)
    assert torch.equal(saved.validated[2]["norm.running_mean"], means[8])
    assert statistics.frozen


@pytest.mark.parametrize("epoch", [0, 1])
def test_resumed_bitwise_with_averaged_weights_frozen_or_not(fit, classifier, tmp_path, epoch):
    def callbacks() -> list[Any]:
        return [AverageWeights(span=0.3), BatchNormStatistics(images=1000, freeze=0.5)]

    classifier.drop.p = 0.0
    whole, resumed = Saved(tmp_path), Saved(tmp_path / "again")
    fit(whole, *callbacks(), max_epochs=3)
    classifier.train()
    fit(resumed, *callbacks(), max_epochs=3, ckpt_path=tmp_path / f"{epoch}.ckpt")
    for name in ("training", "validated"):
        ours, theirs = getattr(resumed, name), getattr(whole, name)
        assert ours
        assert all(same(a, b) for a, b in zip(reversed(ours), reversed(theirs), strict=False))


def test_a_run_that_goes_on_for_longer_is_frozen_for_its_own_last_part(fit, classifier, tmp_path):
    fit(Saved(tmp_path), BatchNormStatistics(images=1000, freeze=0.5), max_epochs=3)
    classifier.train()
    saved = Saved()
    fit(saved, BatchNormStatistics(images=1000, freeze=0.5), max_epochs=8, ckpt_path=tmp_path / "2.ckpt")
    means = [tuple(state["norm.running_mean"].tolist()) for state in saved.training]
    assert len(means) == 20  # of steps 12 to 31 those from 16 on
    assert len(set(means[:4])) == 4
    assert len(set(means[4:])) == 1


def test_averaged_weights_have_statistics_of_their_own(fit, tmp_path):
    saved = Saved(tmp_path)
    fit(saved, AverageWeights(span=0.5), BatchNormStatistics(images=1000, freeze=0.0))
    checkpoint = torch.load(tmp_path / "0.ckpt", weights_only=True)
    assert same(saved.validated[0], checkpoint["state_dict"])
    assert not torch.equal(
        checkpoint["state_dict"]["norm.running_mean"], checkpoint["current_model_state"]["norm.running_mean"]
    )


def test_averages_come_first(fit):
    with pytest.raises(ValueError, match="put them before"):
        fit(BatchNormStatistics(images=8, freeze=0.0), AverageWeights(span=0.5))


@pytest.mark.parametrize(("options", "message"), [({"images": -1}, "images=-1"), ({"freeze": 1.5}, "freeze=1.5")])
def test_a_value_out_of_range_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        BatchNormStatistics(**({"images": 8, "freeze": 0.0} | options))


def of_a_rank(rank: int, file: str) -> None:
    """Two ranks with half of the batches each have bitwise what one process with all of them has."""
    dist.init_process_group("gloo", f"file://{file}", rank=rank, world_size=2)
    torch.manual_seed(0)
    network, batches = (
        torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)),
        torch.randn(6, 2, 3, 9, 9),
    )
    measure_statistics(network, batches)
    alone = {name: value.clone() for name, value in network.state_dict().items()}
    measure_statistics(network, batches[rank::2], _gather)
    assert same(network.state_dict(), alone)
    dist.destroy_process_group()


@pytest.mark.slow
def test_ranks_agree(tmp_path):
    torch.multiprocessing.spawn(of_a_rank, (str(tmp_path / "meet"),), nprocs=2)


def test_what_can_not_be_measured_is_refused_before_training(fit):
    """The first stages of a network that takes images in tiles stay in evaluation."""

    class Streams(Callback):
        def setup(self, trainer, module, stage) -> None:
            module.unused = FromPixels(HCT(num_classes=2), [0.5] * 3, [0.25] * 3)
            module.unused.set_streaming(256)

    seen = Saved()
    with pytest.raises(ValueError, match="memory=stream takes the statistics"):
        fit(Streams(), seen, BatchNormStatistics(images=8, freeze=0.0))
    assert not seen.training


class Measured(Callback):
    """Tells the process to end before statistics are measured; counts what comes after."""

    def __init__(self) -> None:
        self.batches = self.validated = 0

    def on_validation_epoch_start(self, trainer, module) -> None:
        signal.raise_signal(signal.SIGTERM)
        module.register_forward_hook(lambda *_: setattr(self, "batches", self.batches + 1))

    def on_validation_batch_start(self, *_) -> None:
        self.validated += 1


def test_a_signal_is_heard_while_statistics_are_measured(fit):
    before = signal.getsignal(signal.SIGTERM)
    measured, last = Measured(), LastCheckpoint(every_minutes=None, every_steps=None)
    try:
        with pytest.raises(Terminated):
            fit(measured, last, BatchNormStatistics(images=16, freeze=0), enable_checkpointing=True)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (measured.batches, measured.validated) == (2, 0)  # said with the first of four, and heard with the next
