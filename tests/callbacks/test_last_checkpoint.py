"""When last.ckpt is saved, and what ends training with it. Several ranks: tests/parallel/test_faults.py."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback

from hct_lightning.callbacks.last_checkpoint import Exchange, LastCheckpoint, Words
from hct_lightning.runs.signals import Preempted, Terminated


def last_checkpoint(**options: Any) -> LastCheckpoint:
    return LastCheckpoint(**({"every_minutes": 10, "every_steps": None} | options))


def saved_step(folder: Path) -> int | None:
    file = folder / "checkpoints" / "last.ckpt"
    return torch.load(file, weights_only=True)["global_step"] if file.exists() else None


class Saved(Callback):
    """Notes the step of last.ckpt as it stands before each batch and at the end."""

    def __init__(self) -> None:
        self.steps: list[int | None] = []

    def on_train_batch_start(self, trainer, *_) -> None:
        self.steps.append(saved_step(Path(trainer.default_root_dir)))

    def on_train_end(self, trainer, module) -> None:
        self.steps.append(saved_step(Path(trainer.default_root_dir)))


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"every_minutes": None}, [None, None, None, None, 4, 4, 4, 4, 8]),
        ({"every_minutes": 10}, [None, None, None, None, 4, 4, 4, 4, 8]),
        # All ranks hear at the end of a step that it was due at the end of the one before.
        ({"every_minutes": 1e-9}, [None, None, 2, 3, 4, 4, 6, 7, 8]),
        ({"every_minutes": None, "every_steps": 3}, [None, None, None, 3, 4, 4, 6, 6, 8]),
    ],
)
def test_when_it_is_saved(fit, options, steps):
    saved = Saved()
    fit(last_checkpoint(**options), saved, max_epochs=2, enable_checkpointing=True)
    assert saved.steps == steps


def test_between_micro_batches_nothing_is_saved(fit):
    saved = Saved()
    fit(last_checkpoint(every_steps=1), saved, accumulate_grad_batches=2, enable_checkpointing=True)
    assert saved.steps == [None, None, 1, 1, 2]


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
# Of four steps: at the end of the last but one all hear at once, for after the last the epoch's end comes first.
@pytest.mark.parametrize(("batch", "step"), [(0, 2), (1, 3), (2, 3), (3, 4)])
def test_a_signal_ends_training_after_the_next_step_which_is_saved(
    fit, tmp_path, monkeypatch, number, raised, batch, step
):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(raised):
        fit(
            last_checkpoint(),
            Send(number, "train", batch),
            max_epochs=2,
            limit_val_batches=0,
            enable_checkpointing=True,
        )
    assert saved_step(tmp_path) == step


@pytest.mark.parametrize(("batch", "step"), [(0, 2), (1, 2), (2, 3)])
def test_so_it_does_where_steps_end_training_within_an_epoch(fit, tmp_path, batch, step):
    with pytest.raises(Terminated):
        fit(
            last_checkpoint(),
            Send(signal.SIGTERM, "train", batch),
            max_steps=3,
            limit_val_batches=0,
            enable_checkpointing=True,
        )
    assert saved_step(tmp_path) == step


def test_a_signal_between_micro_batches_waits_for_their_step(fit, tmp_path):
    with pytest.raises(Terminated):
        fit(
            last_checkpoint(),
            Send(signal.SIGTERM, "train", 0),
            accumulate_grad_batches=2,
            max_epochs=2,
            enable_checkpointing=True,
        )
    assert saved_step(tmp_path) == 1


def test_validation_ends_without_saving(fit, tmp_path):
    with pytest.raises(Terminated):
        fit(
            last_checkpoint(),
            Send(signal.SIGTERM, "validation", 0),
            data={"batch_size": 2},
            enable_checkpointing=True,
        )
    assert saved_step(tmp_path) is None


class Break(Callback):
    """The weights become infinite before a step."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.validated = False

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        if batch_idx == self.batch:
            self.images = batch.index.tolist()
            torch.nn.init.constant_(module.head.weight, torch.inf)

    def on_validation_batch_start(self, *_: Any) -> None:
        self.validated = True


@pytest.mark.parametrize("batch", [0, 2, 3])  # the last one too is looked at before anything is saved
def test_a_loss_that_is_not_finite_ends_training_and_is_not_saved(fit, tmp_path, batch):
    broken = Break(batch)
    with pytest.raises(ValueError, match=rf"the loss is nan at step {batch + 1} \(epoch 1, images \[.*\]") as error:
        fit(broken, last_checkpoint(every_steps=batch + 1), enable_checkpointing=True)
    assert str(broken.images) in str(error.value)
    assert "use a smaller optim.lr" in str(error.value)
    assert saved_step(tmp_path) is None
    assert not broken.validated


def other_rank(rank: int, file: str) -> None:
    """The loss of the second rank breaks at its third step; both must act after the same step."""
    dist.init_process_group("gloo", f"file://{file}", rank=rank, world_size=2)
    exchange, heard = Exchange(2), []
    for step in range(1, 6):
        heard.append(exchange.receive())
        exchange.send(Words(told=rank == 0 and step >= 2, broken=-3 if rank == 1 and step >= 3 else Words().broken))
    assert [bool(words.told) for words in heard] == [False, False, True, True, True]
    assert [words.broken for words in heard[3:]] == [-3, -3]
    assert heard[:2] == [Words(), Words()]
    exchange.receive()
    dist.destroy_process_group()


@pytest.mark.slow
def test_all_ranks_hear_the_same_one_step_later(tmp_path):
    torch.multiprocessing.spawn(other_rank, (str(tmp_path / "meet"),), nprocs=2)
