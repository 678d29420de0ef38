"""Models in W&B, as artifacts of the type `model`.

| name              | what                                                                                        |
|-------------------|---------------------------------------------------------------------------------------------|
| model-<run>       | the best checkpoint, `model.ckpt`, where `logger.wandb.log_model` asks for it                 |
| <artifact>-<run>  | the folder of an exported artifact; its metadata is `artifact.json`, figures included          |
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import wandb
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger

from hct_lightning.deploy.artifact import read_descriptions
from hct_lightning.runs.secrets import hide_in


class WandbModels(Callback):
    """Sends models when fitting ends. Offline, copies wait in the run's folder until `wandb sync`.

    It stands behind the callback that exports, and before the one that ends the W&B run.

    Args:
        artifacts: whether those that were exported are sent; checkpoints are the logger's own option.
    """

    def __init__(self, *, artifacts: bool) -> None:
        self.artifacts = artifacts

    def on_fit_end(self, trainer: lightning.Trainer, module: Any) -> None:
        logger = next((logger for logger in trainer.loggers if isinstance(logger, WandbLogger)), None)
        if not logger or not trainer.is_global_zero:
            return
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint):
                logger.after_save_checkpoint(callback)  # a resumed run may have its best from before
        logger.finalize("success")  # Lightning does so when the W&B run has ended
        if self.artifacts and not logger.experiment.disabled:  # which would copy them for nobody
            folder = Path(trainer.default_root_dir) / "artifacts"
            for name, about in read_descriptions(folder).items():
                logger.experiment.log_artifact(as_model(folder / name, about, str(logger.experiment.id)))


def as_model(folder: Path, about: Mapping[str, Any], run: str) -> wandb.Artifact:
    """An exported artifact as one of W&B's.

    Args:
        folder: with its files.
        about: what `artifact.json` says.
        run: id of the W&B run, in the name as Lightning has it in that of a checkpoint.
    """
    made = wandb.Artifact(
        f"{folder.name}-{run}",
        type="model",
        description=f"{about['runtime']}, {about['precision']}, {about['size_bytes'] / 1e6:.2f} MB",
        metadata=hide_in(dict(about)),
    )
    made.add_dir(str(folder))
    return made
