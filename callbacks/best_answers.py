"""What the best network said of the validation images: `validate/best.csv`, and small images of the best and worst."""

import logging
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from hct_lightning.training.answers import write_answers, write_thumbnails

log = logging.getLogger(__name__)


class BestAnswers(Callback):
    """Writes the predictions each time that `checkpoints/best.ckpt` is about to be replaced, the images at the end."""

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        if trainer.sanity_checking or trainer.fast_dev_run:
            return
        if _is_best(trainer) and trainer.is_global_zero:
            dataset = trainer.datamodule.dataset
            write_answers(_file(trainer), module.answers, dataset.catalogue.valid, dataset.classes)

    def on_fit_end(self, trainer: Any, module: Any) -> None:
        if trainer.is_global_zero:
            try:
                write_thumbnails(_file(trainer), trainer.datamodule.dataset.reader)
            except (OSError, ValueError) as error:  # what has been trained is worth more than its report
                log.warning("no small images for the report: %s", error)


def _file(trainer: Any) -> Path:
    return Path(trainer.default_root_dir) / "validate" / "best.csv"


def _is_best(trainer: Any) -> bool:
    """Whether ModelCheckpoint is going to keep this network as the best; all ranks ask."""
    best = trainer.checkpoint_callback
    if not isinstance(best, ModelCheckpoint) or best.monitor is None:
        return True
    return best.check_monitor_top_k(trainer, trainer.callback_metrics.get(best.monitor))
