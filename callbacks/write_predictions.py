"""Writes predictions as they come."""

from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from hct_lightning.data.feeding.images import Images
from hct_lightning.data.feeding.loader import Batch
from hct_lightning.runs.predictions import Predictions, Row


class WritePredictions(Callback):
    """Adds the rows of each batch, of all ranks and in the order of the images, to the file on rank 0.

    Args:
        file: open on rank 0, its next row that of the first image.
        images: that are predicted; those that are skipped get a row with the reason.
    """

    def __init__(self, file: Predictions, images: Images) -> None:
        self.file = file
        self.images = images
        self._next = 0

    def on_predict_batch_end(
        self,
        trainer: lightning.Trainer,
        module: Any,
        outputs: torch.Tensor,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        mine = self._rows(batch.index.tolist(), outputs.tolist())
        everyone: list[dict[int, Row]] = [mine]
        if trainer.world_size > 1:
            everyone = [{}] * trainer.world_size
            torch.distributed.all_gather_object(everyone, mine)
        if trainer.is_global_zero:
            rows = {i: row for found in everyone for i, row in found.items()}
            new = sorted(i for i in rows if i >= self._next)
            self.file.append([rows[i] for i in new])
            self._next += len(new)

    def _rows(self, index: list[int], probabilities: list[list[float]]) -> dict[int, Row]:
        """Rows by the position of their images; padding has none, or one that its image has already."""
        rows = {}
        for i, answer in zip(index, probabilities, strict=True):
            at = i if i >= 0 else -1 - i
            path = self.images.paths[at]
            if self.images.skipped and path in self.images.skipped:
                rows[at] = self.file.row(path, None, self.images.skipped[path])
            elif i >= 0:
                rows[at] = self.file.row(path, answer)
        return rows
