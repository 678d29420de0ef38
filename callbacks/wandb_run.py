"""What W&B shows beside the curves.

| key                 | what                                                               |
|---------------------|--------------------------------------------------------------------|
| config              | the resolved configuration without secrets, with the global batch  |
| val/confusion       | the confusion matrix as a chart, each validation                   |
| val/samples         | a table of validation images with labels and predictions, at the end |
"""

import logging
import sys
from collections.abc import Callable
from typing import Any

import lightning
import numpy as np
import torch
import wandb
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger

from hct_lightning.data.reading.geometry import resize
from hct_lightning.runs.secrets import hide, hide_in

log = logging.getLogger(__name__)


def connected(build: Callable[..., WandbLogger], run_id: str | None) -> WandbLogger:
    """W&B's logger; offline where W&B can't be reached, for training does not need it.

    Args:
        build: gives it, taking W&B's own options.
        run_id: of the W&B run; the same one goes on when a run is resumed.
    """
    options = {"id": run_id, "resume": "allow"}
    logger = build(**options)
    command = sys.argv[:]
    try:
        sys.argv[1:] = map(hide, command[1:])  # W&B keeps the command line
        _ = logger.experiment  # connects, on rank 0
    except wandb.Error as error:
        log.warning("W&B can't be reached (%s); logging offline, see `wandb sync`", error)
        wandb.teardown()  # its service holds the run's id otherwise
        logger = build(**options, mode="offline")
        _ = logger.experiment
    finally:
        sys.argv[:] = command
    return logger


class WandbRun(Callback):
    """Logs configuration, confusion matrix and sample predictions, and ends the W&B run.

    Args:
        config: plain containers.
        samples: rows of the table of predictions.
        sample_px: the longer side of the images in it.
    """

    def __init__(self, config: dict[str, Any], *, samples: int = 16, sample_px: int = 512) -> None:
        self.config = config
        self.samples = samples
        self.sample_px = sample_px
        self._rows: list[list[Any]] = []

    def _experiment(self, trainer: lightning.Trainer) -> Any:
        return next(lg.experiment for lg in trainer.loggers if isinstance(lg, WandbLogger))

    def on_fit_start(self, trainer: lightning.Trainer, module: Any) -> None:
        if trainer.is_global_zero:
            self._experiment(trainer).config.update(hide_in(self.config), allow_val_change=True)

    def on_validation_epoch_start(self, trainer: lightning.Trainer, module: Any) -> None:
        self._rows = []

    def on_validation_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, *_: Any
    ) -> None:
        if not trainer.is_global_zero or len(self._rows) >= self.samples:
            return
        if not isinstance(batch.images, torch.Tensor):
            return  # too large to be shown
        keep = min(len(batch.images), self.samples - len(self._rows))
        with torch.autocast(module.device.type, enabled=False):
            probabilities = module(batch.images[:keep]).float().softmax(dim=1).cpu()
        for image, label, p in zip(batch.images, batch.labels[:keep].tolist(), probabilities, strict=False):
            predicted = p.argmax().item()
            self._rows.append(
                [
                    self._small(image),
                    module.classes[label],
                    module.classes[predicted],
                    p.max().item(),
                ]
            )

    def _small(self, image: torch.Tensor) -> wandb.Image:
        scale = min(1.0, self.sample_px / max(image.shape[-2:]))
        height, width = (max(1, round(side * scale)) for side in image.shape[-2:])
        pixels = resize(image.cpu(), (height, width)).permute(1, 2, 0).numpy()
        return wandb.Image(pixels if pixels.shape[-1] == 3 else np.ascontiguousarray(pixels[..., 0]))

    def on_validation_end(self, trainer: lightning.Trainer, module: Any) -> None:
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        rows = [
            [true, predicted, int(module.confusion[i, j])]
            for i, true in enumerate(module.classes)
            for j, predicted in enumerate(module.classes)
        ]
        table = wandb.Table(columns=["Actual", "Predicted", "nPredictions"], data=rows)
        chart = wandb.plot_table(
            "wandb/confusion_matrix/v1",
            table,
            {"Actual": "Actual", "Predicted": "Predicted", "nPredictions": "nPredictions"},
            {"title": f"Validation, epoch {trainer.current_epoch + 1}"},
        )
        self._experiment(trainer).log({"val/confusion": chart}, commit=False)

    def on_fit_end(self, trainer: lightning.Trainer, module: Any) -> None:
        if trainer.is_global_zero:
            table = wandb.Table(columns=["image", "label", "predicted", "probability"], data=self._rows)
            self._experiment(trainer).log({"val/samples": table})

    def teardown(self, trainer: lightning.Trainer, module: Any, stage: str) -> None:
        # In one process a second run would otherwise go on in the first one.
        wandb.finish()

    def on_exception(self, trainer: lightning.Trainer, module: Any, exception: BaseException) -> None:
        wandb.finish(exit_code=1)
