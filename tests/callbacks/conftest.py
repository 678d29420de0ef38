"""A real training run of a second: a small network on a few images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from PIL import Image
from torch import nn

from hct_lightning.data.datamodule import ImageData
from hct_lightning.data.sources.folder import folder


class Classifier(lightning.LightningModule):
    """BatchNorm, dropout and a linear layer on uint8 images, b 3 h w -> b 2 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(3, 2)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.norm(pixels.float() / 255).mean(dim=(2, 3))))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = F.cross_entropy(self(batch.images), batch.labels)
        self.log("train/loss_epoch", loss.detach(), on_step=False, on_epoch=True, batch_size=len(batch.labels))
        self.log("train/loss_step", loss.detach(), on_step=True, on_epoch=False)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        right = self(batch.images).argmax(dim=1) == batch.labels
        self.log("val/accuracy", right.float().mean(), batch_size=len(batch.labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.fixture
def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier()


@pytest.fixture
def images(tmp_path) -> Path:
    """10 images of each of two classes: 16 to train on, 4 to validate."""
    random = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(10):
            pixels = random.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    return tmp_path / "images"


@pytest.fixture
def fit(tmp_path, images, classifier, data_options) -> Callable[..., lightning.Trainer]:
    """Trains `classifier`, in `tmp_path`, for an epoch of four steps of four images.

    Options are the trainer's, those under `data` the data module's; `ckpt_path` resumes.
    """

    def run(*callbacks: Any, data: dict[str, Any] | None = None, ckpt_path: Any = None, **options) -> lightning.Trainer:
        defaults = {
            "max_epochs": 1,
            "logger": False,
            "accelerator": "cpu",
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "use_distributed_sampler": False,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
        }
        trainer = lightning.Trainer(default_root_dir=tmp_path, callbacks=list(callbacks), **(defaults | options))
        small = data_options("folder", root=str(images), resolution=32, batch_size=4, num_workers=0)
        trainer.fit(classifier, ImageData(folder, **(small | (data or {}))), ckpt_path=ckpt_path, weights_only=True)
        return trainer

    return run


class SaveAfter(Callback):
    """Saves when a step is done, in the middle of an epoch."""

    def __init__(self, step: int, file: Path) -> None:
        self.step = step
        self.file = file

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.file)


@pytest.fixture
def save_after() -> type[SaveAfter]:
    return SaveAfter


@pytest.fixture
def half(fit, tmp_path) -> Path:
    """A checkpoint of an epoch's second of four steps."""
    fit(SaveAfter(2, tmp_path / "half.ckpt"))
    return tmp_path / "half.ckpt"
