"""Optimiser, schedule and the weight of each image, in real short loops."""

from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hct_lightning.callbacks.average_weights import AverageWeights
from hct_lightning.data.feeding.loader import Batch
from hct_lightning.training.learner import Learner


class Zero(Learner):
    """Learns that every image is 0."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        errors = self(batch.images).square().mean(dim=1)
        size = len(batch.index)
        return self.logged(errors.sum(), images=size, crops=len(errors) // size, largest=errors.detach().max())


def learner(**options) -> Zero:
    torch.manual_seed(0)
    defaults = {"optimizer": torch.optim.SGD, "schedule": lambda step, **_: 1.0, "lr": 0.5}
    return Zero(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), **(defaults | options))


def batch(*seeds: int) -> Batch:
    images = [torch.rand(3, 2, 2, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return Batch(torch.stack(images), torch.zeros(len(seeds), dtype=torch.long), torch.tensor(seeds))


def trained(module: Zero, *batches: Batch, ckpt_path: Any = None, **options: Any) -> lightning.Trainer:
    quiet = {f"enable_{name}": False for name in ("checkpointing", "progress_bar", "model_summary")}
    run = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        accumulate_grad_batches=len(batches),
        log_every_n_steps=1,
        **quiet,
        **({"max_epochs": 1} | options),
    )
    run.fit(module, DataLoader(batches, batch_size=None), ckpt_path=ckpt_path, weights_only=True)
    return run


def test_all_images_of_a_step_weigh_the_same_in_micro_batches_of_any_size():
    parts, whole = learner(images_per_backward=1.5), learner()
    trained(parts, batch(1, 2), batch(3))
    run = trained(whole, batch(1, 2, 3))
    torch.testing.assert_close(parts.network[1].weight, whole.network[1].weight)
    assert run.callback_metrics["train/loss_epoch"] == run.callback_metrics["train/loss_step"]
    assert run.callback_metrics["train/largest"] > run.callback_metrics["train/loss_epoch"]


def test_crops_of_an_image_weigh_as_much_as_one():
    one, several = learner(), learner()
    seen = batch(1, 2)
    trained(one, seen)
    trained(several, seen._replace(images=seen.images.repeat(3, 1, 1, 1), labels=seen.labels.repeat(3)))
    torch.testing.assert_close(one.network[1].weight, several.network[1].weight)


def test_the_rate_grows_with_the_global_batch():
    few, many = learner(global_batch=16), learner(global_batch=32)
    for module in (few, many):
        trained(module, batch(1, 2))
    rates = [module.optimizers().param_groups[0]["lr"] for module in (few, many)]
    assert rates == [0.5, 1.0]


def test_biases_do_not_decay():
    module = learner(optimizer=lambda groups, lr: torch.optim.SGD(groups, lr=lr, weight_decay=0.1))
    trained(module, batch(0, 1))
    matrices, biases = module.optimizers().param_groups
    assert [p.ndim for p in matrices["params"]] == [2]
    assert [p.ndim for p in biases["params"]] == [1]
    assert (matrices["weight_decay"], biases["weight_decay"]) == (0.1, 0.0)


def test_what_can_be_no_rate_is_named():
    with pytest.raises(ValueError, match=r"optim\.lr=0: give a positive learning rate"):
        learner(lr=0)
    with pytest.raises(ValueError, match=r"optim\.reference_batch=0: give at least 1"):
        learner(reference_batch=0)


def test_training_takes_an_optimiser():
    with pytest.raises(ValueError, match="training takes an optimizer and a schedule"):
        trained(learner(optimizer=None), batch(1))


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint:UserWarning")
def test_without_averages_it_goes_on_from_the_weights_that_train(tmp_path):
    whole, averaged, resumed = learner(), learner(), learner()
    trained(whole, batch(1, 2), max_epochs=4)
    file = tmp_path / "averaged.ckpt"
    saves = LambdaCallback(on_train_epoch_end=lambda trainer, _: trainer.save_checkpoint(file))
    trained(averaged, batch(1, 2), max_epochs=3, callbacks=[AverageWeights(span=1.0), saves])
    trained(resumed, batch(1, 2), max_epochs=4, ckpt_path=file)
    assert torch.equal(resumed.network[1].weight, whole.network[1].weight)
