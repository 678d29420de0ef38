"""What W&B shows beside the curves.

| key                  | what                                                                   |
|----------------------|------------------------------------------------------------------------|
| config               | the resolved configuration without secrets, with the global batch      |
| val/confusion        | the confusion matrix as a chart, each validation                       |
| val/predictions      | a table of the worst and the surest predictions of the best checkpoint, with their images |
| val/roc              | ROC of each class, of the same                                         |
| val/precision_recall | precision and recall of each class, of the same                        |
| export/artifacts     | a table of the artifacts: runtime, size in 10^6 bytes, time in ms, accuracy |
| summary              | the best of `val/accuracy` and `val/loss`; parameters, images, expected calibration error |
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import wandb
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger

from hct_lightning.deploy.artifact import read_descriptions
from hct_lightning.report.predictions import JudgedImages, curves, read_predictions, reliability
from hct_lightning.runs.secrets import hide_in

POINTS = 10_000  # of a chart that W&B draws
BEST_IS = {"val/accuracy": "max", "val/balanced_accuracy": "max", "val/auroc": "max", "val/loss": "min"}
OF_ARTIFACTS = ("time_ms", "accuracy", "accuracy_fp32", "agreement", "sqnr_db")


class WandbRun(Callback):
    """Logs configuration, charts and tables, and ends the W&B run.

    What it says of predictions is read from `validate/best.csv`, so it stands behind the callbacks that write there.

    Args:
        config: plain containers.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def _experiment(self, trainer: lightning.Trainer) -> Any:
        return next(lg.experiment for lg in trainer.loggers if isinstance(lg, WandbLogger))

    def on_fit_start(self, trainer: lightning.Trainer, module: Any) -> None:
        if trainer.is_global_zero:
            experiment = self._experiment(trainer)
            experiment.config.update(hide_in(self.config), allow_val_change=True)
            for metric, best in BEST_IS.items():
                experiment.define_metric(metric, step_metric="trainer/global_step", summary=best)
            experiment.summary["parameters"] = sum(p.numel() for p in module.network.parameters())

    def on_validation_end(self, trainer: lightning.Trainer, module: Any) -> None:
        if not trainer.is_global_zero or trainer.sanity_checking or module.confusion is None:
            return
        chart = confusion_chart(
            module.classes, module.confusion.tolist(), f"Validation, epoch {trainer.current_epoch + 1}"
        )
        self._experiment(trainer).log({"val/confusion": chart}, commit=False)

    def on_fit_end(self, trainer: lightning.Trainer, module: Any) -> None:
        if not trainer.is_global_zero:
            return
        experiment, folder = self._experiment(trainer), Path(trainer.default_root_dir)
        answers = folder / "validate" / "best.csv"
        shown: dict[str, Any] = {}
        if found := read_predictions(answers) if answers.exists() else None:
            shown |= {"val/predictions": prediction_table(found), **dict(curve_charts(found))}
            experiment.summary.update(
                {"validation_images": len(found.labels), "calibration_error": reliability(found).ece}
            )
        if made := read_descriptions(folder / "artifacts"):
            shown["export/artifacts"] = artifact_table(made)
        if shown:
            experiment.log(shown)

    def teardown(self, trainer: lightning.Trainer, module: Any, stage: str) -> None:
        # In one process a second run would otherwise go on in the first one.
        wandb.finish()

    def on_exception(self, trainer: lightning.Trainer, module: Any, exception: BaseException) -> None:
        wandb.finish(exit_code=1)


def confusion_chart(classes: Sequence[str], counts: Sequence[Sequence[float]], title: str) -> Any:
    """A matrix of counts, true by predicted."""
    rows = [
        [true, predicted, int(counts[i][j])] for i, true in enumerate(classes) for j, predicted in enumerate(classes)
    ]
    names = ("Actual", "Predicted", "nPredictions")
    table = wandb.Table(columns=[*names], data=rows)
    return wandb.plot_table("wandb/confusion_matrix/v1", table, dict(zip(names, names, strict=True)), {"title": title})


def prediction_table(found: JudgedImages) -> wandb.Table:
    """The rows that a report shows too: the least probability for the true class first, then the surest right answers."""
    table = wandb.Table(["image", "label", "predicted", "probability", "probability of the label", "kind", "file"])
    for kind, rows in (("worst", found.worst()), ("surest", found.best())):
        for i in rows:
            label, answer = int(found.labels[i]), int(found.answers[i])
            small = found.thumbnail(i)
            table.add_data(
                wandb.Image(str(small)) if small.exists() else None,
                found.classes[label],
                found.classes[answer],
                float(found.probabilities[i, answer]),
                float(found.probabilities[i, label]),
                kind,
                found.paths[i].encode(errors="replace").decode(),  # a path may be any bytes
            )
    return table


def curve_charts(found: JudgedImages) -> Iterator[tuple[str, Any]]:
    """ROC, and precision and recall, of each class against the rest."""
    roc, precision = [], []
    for i, name in enumerate(found.classes):
        curve = curves(found.probabilities[:, i], found.labels == i)
        kept = thinned(len(curve.recall), POINTS // len(found.classes))
        roc += [[name, *map(float, pair)] for pair in zip(curve.false_positives[kept], curve.recall[kept], strict=True)]
        precision += [[name, *map(float, pair)] for pair in zip(curve.recall[kept], curve.precision[kept], strict=True)]
    yield "val/roc", _area_chart("ROC", ["false positive rate", "true positive rate"], roc)
    yield "val/precision_recall", _area_chart("Precision and recall", ["recall", "precision"], precision)


def thinned(count: int, most: int) -> np.ndarray:
    """At most about `most` of `count` indices, evenly spaced, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, max(2, most))).round().astype(int))


def _area_chart(title: str, axes: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
    x, y = axes
    data = [row for row in rows if np.isfinite(row[1:]).all()]
    return wandb.plot_table(
        "wandb/area-under-curve/v0",
        wandb.Table(columns=["class", x, y], data=data),
        {"x": x, "y": y, "class": "class"},
        {"title": title, "x-axis-title": x, "y-axis-title": y},
    )


def artifact_table(made: Mapping[str, Mapping[str, Any]]) -> wandb.Table:
    """A row an artifact, with what was measured of it."""
    rows = [
        [name, about["runtime"], about["precision"], about["size_bytes"] / 1e6]
        + [about["metrics"].get(key) for key in OF_ARTIFACTS]
        for name, about in made.items()
    ]
    return wandb.Table(columns=["artifact", "runtime", "precision", "size_mb", *OF_ARTIFACTS], data=rows)
