"""A signal ends training at the next step. Several ranks: tests/parallel/test_faults.py."""

import signal
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from hct_lightning.callbacks.stop_on_sigterm import StopOnSigterm
from hct_lightning.runs.signals import Preempted, Terminated


class Send(Callback):
    """Sends this process a signal in the middle of a batch of training or validation."""

    def __init__(self, number: signal.Signals, hook: str, batch: int) -> None:
        self.number = number
        self.batch = batch
        setattr(self, f"on_{hook}_batch_start", self._send)

    def _send(self, trainer: Any, module: Any, batch: Any, batch_idx: int, *_: Any) -> None:
        if batch_idx == self.batch:
            signal.raise_signal(self.number)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGTERM, Terminated), (signal.SIGUSR2, Preempted)], ids=["SIGTERM", "USR2"]
)
@pytest.mark.parametrize("batch", [1, 3])  # the epoch's second and last
def test_the_step_is_finished_and_saved(fit, tmp_path, monkeypatch, number, raised, batch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(raised):
        fit(StopOnSigterm(), Send(number, "train", batch), max_epochs=2, limit_val_batches=0)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == batch + 1


def test_between_micro_batches_nothing_is_saved(fit, tmp_path):
    with pytest.raises(Terminated):
        fit(StopOnSigterm(), Send(signal.SIGTERM, "train", 0), accumulate_grad_batches=2)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 1


def test_validation_ends_without_saving(fit, tmp_path):
    with pytest.raises(Terminated):
        fit(StopOnSigterm(), Send(signal.SIGTERM, "validation", 0))
    assert not (tmp_path / "checkpoints").exists()
