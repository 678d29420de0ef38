"""Whole steps of `task=fit` in which Python never waits for the device: loop, backward, optimiser, callbacks, loader."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from torch import Tensor
from waiting import Device, Methods, Operators, WouldWait

from hct_lightning.tasks import fit
from hct_lightning.training.module import ImageClassifier

STEPS, EPOCHS, LOGGED_EVERY = 4, 2, 2
# Where Python reads what is on the device, and how often.
READS = {
    "last_checkpoint.py:read": EPOCHS * STEPS,  # the loss, a step late
    "logger_connector.py:log_metrics": EPOCHS
    * (STEPS // LOGGED_EVERY + 2),  # the loss of a step; loss and accuracy of the epoch
    "module.py:_everyones_answers": EPOCHS * 2,  # logits and labels of a validation pass
    "progress.py:on_train_epoch_end": EPOCHS,
}
OPTIONS = (
    "data.scene_size=128",
    "data.resolution=128",
    "data.valid=6",
    "data.batch_size=4",
    "data.num_workers=1",
    "data.augment={vertical_flip: 0.5, quarter_turns: 0.5, jitter: 8, rotation: 5, brightness: 0.2, contrast: 0.2}",
    "data.augment={colour: 0.1, blur: 0.5, noise: 5, jpeg: 0.5, erase: 0.5, mixup: 0.2, crop: 0.9}",
    f"trainer.max_epochs={EPOCHS}",
    f"trainer.log_every_n_steps={LOGGED_EVERY}",
    "trainer.gradient_clip_val=1",
    "trainer.accelerator=cpu",
    "export=[]",
    "+callbacks.refuse._target_=waiting.Refuse",
    f"+callbacks.refuse.allowed=[{','.join(map(repr, READS))}]",
)
RECOMPUTING = ("callbacks=default", "memory=low", "micro_batches=2", "optim=adamw", "trainer.precision=bf16-mixed")


def losses(epochs: int) -> list[int]:
    """The steps whose losses are sent (+) and read (-): at the end of the next step, but at once for an epoch's last two."""
    first = [1, 2, -1, 3, -2, -3, 4, -4]
    return [step + (STEPS * epoch if step > 0 else -STEPS * epoch) for epoch in range(epochs) for step in first]


@pytest.fixture
def train(tmp_path) -> Callable[..., dict[str, Any]]:
    """What `waiting.Refuse` found in `task=fit` with options."""

    def train(*options: str) -> dict[str, Any]:
        more = f"data.train={4 * STEPS}", f"callbacks.best.dirpath={tmp_path}/checkpoints"
        with initialize_config_module("hct_lightning.conf", version_base="1.3"):
            cfg = compose("config", [*OPTIONS, *more, *options])
        fit.main(cfg, tmp_path)
        return json.loads((tmp_path / "waiting.json").read_text())

    return train


@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), marks=pytest.mark.slow, id="HCT"),
        pytest.param(RECOMPUTING, id="recomputing in micro-batches"),
        pytest.param(
            ("model=timm", "model.model_name=mobilenetv4_conv_small", "optim=sgd"), marks=pytest.mark.slow, id="timm"
        ),
    ],
)
def test_a_step_reads_nothing_but_the_loss_of_the_one_before(train, options):
    found = train(*options)
    assert found["reads"] == READS
    assert found["losses"] == losses(EPOCHS)


@pytest.mark.slow
def test_ranks_exchange_nothing_in_a_step_but_gradients_and_words(environment, tmp_path):
    path = os.pathsep.join((str(Path(__file__).parents[1]), environment.get("PYTHONPATH", "")))
    options = ("trainer.devices=2", f"data.train={8 * STEPS}", "safety.allow=[waiting]", f"hydra.run.dir={tmp_path}")
    command = [sys.executable, "-m", "hct_lightning", *OPTIONS, *options]
    subprocess.run(command, cwd=tmp_path, env=environment | {"PYTHONPATH": path}, check=True)
    found = json.loads((tmp_path / "waiting.json").read_text())
    assert found["reads"] == READS
    assert found["losses"] == losses(EPOCHS)
    assert len(found["collectives"]) == EPOCHS * (STEPS - 2)
    for names in found["collectives"]:
        assert set(names) == {"allreduce_"}


def test_a_step_that_reads_is_refused(train, monkeypatch):
    step = ImageClassifier.training_step

    def looking(self: ImageClassifier, *args: Any) -> Tensor:
        loss = step(self, *args)
        if not torch.isfinite(loss):
            raise ValueError("not finite")
        return loss

    monkeypatch.setattr(ImageClassifier, "training_step", looking)
    with pytest.raises(WouldWait):
        train()


@pytest.mark.parametrize(
    "look",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: bool(x.sum() > 0),
        lambda x: 1 if x.isfinite().all() else 0,
        lambda x: float(x.max()),
        lambda x: f"{x.mean():.2f}",
        lambda x: x.cpu(),
        lambda x: x.to("cpu"),
        lambda x: x.detach().numpy(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.masked_select(x > 0),
        lambda x: torch.equal(x, x + 1),
        lambda x: [0, 1, 2, 3][x.argmax()],
        lambda x: torch.nn.utils.clip_grad_norm_(x, 1.0, error_if_nonfinite=True),
    ],
)
def test_what_the_pretended_device_refuses(look):
    device = Device()
    x = torch.rand(4, requires_grad=True)
    device.put(x)
    with Operators(device), Methods(device):
        (x * 2).sum().backward()  # computing is let through
        torch.rand(4).tolist()  # and the host's own
        with pytest.raises(WouldWait):
            look(x)
