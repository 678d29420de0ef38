"""Training steps on fake CUDA tensors, which know their device without a driver: none is on the wrong one.

All of a step is Lightning's and ours but for the backward pass, for which autograd asks the driver, and what reads the
loss late. Copies from one device to the other must not wait. tests/training/test_no_waiting.py has whole steps.
"""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import lightning
import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hct_lightning.callbacks.average_weights import AverageWeights
from hct_lightning.callbacks.epoch_time import EpochTime
from hct_lightning.callbacks.last_checkpoint import Exchange, LastCheckpoint, Loss, Words
from hct_lightning.callbacks.micro_batches import MicroBatches
from hct_lightning.callbacks.reseed import Reseed
from hct_lightning.data.datamodule import ImageData
from hct_lightning.data.feeding.augment.augmentation import Augmentation
from hct_lightning.data.feeding.loader import Batch
from hct_lightning.data.feeding.transfer import Transfer
from hct_lightning.training.module import ImageClassifier
from hct_lightning.training.spec import build_network

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # there is no GPU, and so on

GPU = torch.device("cuda", 0)
STEPS = 3


class Strategy(SingleDeviceStrategy):
    def teardown(self) -> None:
        """Fake parameters can't be brought back."""


class Module(ImageClassifier):
    def backward(self, loss: Tensor) -> None:
        assert loss.device == GPU
        for parameter in self.parameters():
            parameter.grad = torch.zeros_like(parameter)


class Data(lightning.LightningDataModule):
    """Batches as the loader makes them, and its hand-over."""

    transfer_batch_to_device = ImageData.transfer_batch_to_device

    def __init__(self) -> None:
        super().__init__()
        options = dict.fromkeys(("flip", "vertical_flip", "quarter_turns", "brightness", "contrast"), 0.5)
        options |= dict.fromkeys(("scale", "colour", "blur", "jpeg", "erase", "mixup", "cutmix"), 0.5)
        self.augment = Augmentation(**options, jitter=4, rotation=9, crop=0.9)

    def train_dataloader(self) -> "Data":
        return self

    def __len__(self) -> int:
        return STEPS + 1

    waited_s = 0.0

    def __iter__(self) -> Iterator[Batch]:
        transfer = Transfer(GPU)
        for _ in range(len(self)):
            pixels = torch.empty(2, 128, 128, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
            images, labels = transfer(pixels, torch.zeros(2, dtype=torch.long))
            index = mock.MagicMock(
                **{"tolist.return_value": [0, 1], "__len__.return_value": 2}
            )  # which is read on the CPU; fake tensors can't be
            yield Batch(images, labels, index)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        return self.augment(batch, seed=0, epoch=0, classes=4)


class NoWaitingCopies(TorchDispatchMode):
    """Between devices only copies that Python does not wait for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        devices = {leaf.device.type for leaf in tree_leaves((args, out)) if isinstance(leaf, Tensor)}
        copies = func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_)
        if copies and len(devices) > 1:
            there = (kwargs or {}).get("non_blocking", False) or (len(args) > 2 and args[2])
            assert there, f"Python waits for {func}"
        return out


class Stop(Exception):  # noqa: N818
    """As many steps as are wanted; at an epoch's end values are read."""


class Pretend(Callback):
    """Puts parameters and buffers on the fake GPU, but for those of a name."""

    def __init__(self, but: str | None) -> None:
        self.but = but
        self.modes = contextlib.ExitStack()

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.modes.enter_context(FakeTensorMode())
        self.modes.enter_context(NoWaitingCopies())
        moved: dict[Tensor, Tensor] = {}
        averages = [c._average_model.modules() for c in trainer.callbacks if isinstance(c, AverageWeights)]
        for part in itertools.chain(module.modules(), *averages):
            for tensors in (part._parameters, part._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        there = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu" if name == self.but else GPU)
                        moved[tensor] = tensors[name] = nn.Parameter(there) if tensors is part._parameters else there
        for group in trainer.optimizers[0].param_groups:
            group["params"] = [moved[parameter] for parameter in group["params"]]
        module._device = trainer.strategy._root_device = GPU

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        assert batch.images.device == batch.labels.device == outputs["loss"].device == GPU
        if batch_idx == STEPS - 1:
            module.validation_step(batch, 0)
            assert module._answers[0].logits.device == GPU
            raise Stop

    def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
        self.modes.close()


@pytest.fixture(autouse=True)
def _driver(monkeypatch) -> None:
    """What torch.cuda would ask a driver."""
    for name in ("Stream", "Event", "current_stream", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, mock.MagicMock())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: None)
    monkeypatch.setattr(Loss, "read", lambda loss: 0.0)
    monkeypatch.setattr(Exchange, "receive", lambda exchange: Words())  # on the CPU
    monkeypatch.setattr(Tensor, "__deepcopy__", lambda tensor, memo: tensor.clone())  # by storage otherwise


def steps(
    name: str, folder: Path, *, precision: str = "32-true", memory: str = "speed", but: str | None = None
) -> lightning.Trainer:
    network = build_network(NETWORKS[name], channels=3, classes=4, mean=(0.5,) * 3, std=(0.2,) * 3)
    if memory == "low":
        network.set_grad_checkpointing()
    module = Module(
        network,
        classes="abcd",
        optimizer=torch.optim.SGD,
        schedule=lambda step, **_: 1.0,
        class_weights=(0.5, 1.0, 1.5, 1.0),
        label_smoothing=0.1,
    )
    trainer = lightning.Trainer(
        strategy=Strategy("cpu", accelerator=CPUAccelerator()),
        plugins=[] if precision == "32-true" else [MixedPrecision(precision, "cuda")],
        callbacks=[
            Pretend(but),
            AverageWeights(span=0.5),
            Reseed(seed=0),
            MicroBatches(),
            LastCheckpoint(every_minutes=10, every_steps=None),
            EpochTime(),
        ],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        gradient_clip_val=1.0,
        log_every_n_steps=100,
        max_epochs=1,
        default_root_dir=folder,
    )
    with pytest.raises(Stop):
        trainer.fit(module, datamodule=Data())
    return trainer


NETWORKS = {
    "HCT": {"_target_": "hct_lightning.models.HCT"},
    **{
        name: {"_target_": "timm.create_model", "model_name": name}
        for name in ("mobilenetv4_conv_small", "efficientvit_b0", "convnext_atto")
    },
}


@pytest.mark.parametrize(
    ("name", "precision", "memory"),
    [
        pytest.param(*case, marks=() if case == ("HCT", "bf16-mixed", "low") else pytest.mark.slow)
        for case in itertools.product(NETWORKS, ("32-true", "bf16-mixed", "16-mixed"), ("speed", "low"))
    ],
)
def test_no_tensor_is_on_the_wrong_device(tmp_path, name, precision, memory):
    assert steps(name, tmp_path, precision=precision, memory=memory).global_step == STEPS


@pytest.mark.parametrize("name", ["scale", "class_weights"])
def test_a_buffer_that_is_left_on_the_cpu_is_found(tmp_path, name):
    with pytest.raises(RuntimeError, match=r"cuda:0.* and .*cpu"):
        steps("HCT", tmp_path, but=name)


def test_a_value_that_is_read_is_found(tmp_path, monkeypatch):
    step = Module.training_step

    def looking(self: Module, *args: Any) -> Tensor:
        loss = step(self, *args)
        loss.detach().item()
        return loss

    monkeypatch.setattr(Module, "training_step", looking)
    with pytest.raises(DataDependentOutputException):
        steps("HCT", tmp_path)


def test_a_copy_that_waits_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(Module, "on_train_batch_start", lambda module, batch, batch_idx: torch.empty(2).to(GPU))
    with pytest.raises(AssertionError, match=r"Python waits for aten\._to_copy"):
        steps("HCT", tmp_path)
