"""Optimiser, schedule and the weight of each image, in real short loops."""

import lightning
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

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


def trained(module: Zero, *batches: Batch) -> lightning.Trainer:
    quiet = {f"enable_{name}": False for name in ("checkpointing", "progress_bar", "model_summary")}
    run = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        max_epochs=1,
        accumulate_grad_batches=len(batches),
        log_every_n_steps=1,
        **quiet,
    )
    run.fit(module, DataLoader(batches, batch_size=None))
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
