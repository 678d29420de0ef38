"""What a training has measured, in the record of its run."""

from collections.abc import Mapping, Sequence
from typing import Any

import lightning
from torch import Tensor

from hct_lightning.runs.folder import Run


def record_results(
    run: Run,
    trainer: lightning.Trainer,
    *,
    confusion: Tensor | None,
    epoch_times: Sequence[Mapping[str, Any]],
    earlier: Mapping[str, Any],
) -> None:
    """Adds to `run.json` what was measured; a run that had nothing left to do keeps what it has.

    Args:
        run: whose record it is.
        trainer: that has trained.
        confusion: the matrix of the last validation; None where there are no classes.
        epoch_times: of the epochs that it has trained, by their numbers.
        earlier: the record of the run that went on; its earlier epochs stay.
    """
    if not epoch_times and earlier.get("metrics"):
        return
    before = [row for row in earlier.get("epoch_times") or () if epoch_times and row["epoch"] < epoch_times[0]["epoch"]]
    run.update(
        metrics=read_metrics(trainer),
        confusion=confusion.tolist() if confusion is not None else None,
        epoch_times=[*before, *epoch_times],
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
