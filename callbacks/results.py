"""What a training has measured, in the record of its run."""

from collections.abc import Mapping, Sequence
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from hct_lightning.runs.folder import Run


class Results(Callback):
    """Adds to `run.json` what was measured, when fitting ends; a run that had nothing left to do keeps what it has.

    It comes before what makes artifacts, which takes long and may be interrupted: then nothing is left to train, and
    nothing would be measured any more.

    Args:
        run: whose record it is.
        epoch_times: of the epochs that are trained, by their numbers; grows while they are.
        earlier: the record of the run that goes on; its earlier epochs stay.
    """

    def __init__(self, run: Run, epoch_times: Sequence[Mapping[str, Any]], earlier: Mapping[str, Any]) -> None:
        self.run = run
        self.epoch_times = epoch_times
        self.earlier = earlier

    def on_fit_end(self, trainer: lightning.Trainer, module: Any) -> None:
        times, before = self.epoch_times, self.earlier.get("epoch_times") or ()
        if not times and self.earlier.get("metrics"):
            return
        self.run.update(
            metrics=read_metrics(trainer),
            confusion=module.confusion.tolist() if module.confusion is not None else None,
            epoch_times=[*(row for row in before if times and row["epoch"] < times[0]["epoch"]), *times],
        )


def read_metrics(trainer: lightning.Trainer) -> dict[str, float]:
    """The last values of everything that was logged, and the best of what chose the checkpoint, where it is to be large:
    `best` for the accuracy on validation images, `best/auroc` for another, say."""
    metrics = {name: value.item() for name, value in sorted(trainer.callback_metrics.items())}
    keeper: Any = trainer.checkpoint_callback
    if getattr(keeper, "mode", None) == "max" and keeper.best_model_score is not None:
        name = keeper.monitor.removeprefix("val/")
        metrics["best" if name == "accuracy" else f"best/{name}"] = keeper.best_model_score.item()
    return metrics
