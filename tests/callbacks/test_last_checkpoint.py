from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from hct_lightning.callbacks.last_checkpoint import LastCheckpoint


class Saved(Callback):
    """Notes the step of last.ckpt as it stands after each batch and each epoch."""

    def __init__(self) -> None:
        self.steps: list[int | None] = []

    def _note(self, trainer) -> None:
        file = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
        self.steps.append(torch.load(file, weights_only=True)["global_step"] if file.exists() else None)

    def on_train_batch_start(self, trainer, *_) -> None:
        self._note(trainer)

    def on_train_end(self, trainer, module) -> None:
        self._note(trainer)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"every_minutes": None}, [None, None, None, None, 4, 4, 4, 4, 8]),
        ({"every_minutes": 10}, [None, None, None, None, 4, 4, 4, 4, 8]),
        ({"every_minutes": 1e-9}, [None, 1, 2, 3, 4, 5, 6, 7, 8]),
        ({"every_minutes": None, "every_steps": 3}, [None, None, None, 3, 4, 4, 6, 6, 8]),
    ],
)
def test_when_it_is_saved(fit, options, steps):
    saved = Saved()
    fit(
        LastCheckpoint(**({"every_minutes": 10, "every_steps": None} | options)),
        saved,
        max_epochs=2,
        enable_checkpointing=True,
    )
    assert saved.steps == steps


def test_between_micro_batches_nothing_is_saved(fit):
    saved = Saved()
    fit(
        LastCheckpoint(every_minutes=1e-9, every_steps=None),
        saved,
        accumulate_grad_batches=2,
        enable_checkpointing=True,
    )
    assert saved.steps == [None, None, 1, 1, 2]
