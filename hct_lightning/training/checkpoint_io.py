"""Checkpoints that are whole or absent, never broken."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from hct_lightning.runs.files import open_whole


class WholeCheckpointIO(TorchCheckpointIO):
    """Killed at any moment, or with a full disk, the earlier checkpoint stays as it was."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_whole(path) as file:
            torch.save(checkpoint, file)
