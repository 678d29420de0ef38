"""Lists the images that could not be read and were skipped (data.on_error=skip)."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from hct_lightning.runs.files import csv_text, write_whole


class SkippedImages(Callback):
    """Keeps a list in the run's folder: path and reason, of all ranks, after every epoch or a validation alone.

    Args:
        file: its name there.
    """

    def __init__(self, file: str = "skipped.csv") -> None:
        self.file = file

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        self._write(trainer)

    def on_validation_epoch_end(self, trainer: Any, module: Any) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._write(trainer)

    def _write(self, trainer: Any) -> None:
        skipped = trainer.datamodule.dataset.skipped
        if not trainer.datamodule.dataset.skips:
            return
        everyone: list[dict[str, str]] = [skipped]
        if trainer.world_size > 1:
            everyone = [{}] * trainer.world_size
            torch.distributed.all_gather_object(everyone, skipped)
        found = {path: reason for mine in everyone for path, reason in mine.items()}
        if found and trainer.is_global_zero:
            rows = [("path", "reason"), *sorted(found.items())]
            out = Path(trainer.default_root_dir) / self.file
            out.parent.mkdir(exist_ok=True)
            write_whole(out, csv_text(rows))
