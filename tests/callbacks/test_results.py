"""What a training leaves in `run.json`."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from hct_lightning.callbacks.results import Results, read_metrics
from hct_lightning.runs.folder import Run


def finished(mode: str = "max", best: float | None = 0.9, monitor: str = "val/accuracy") -> SimpleNamespace:
    """As much of a trainer as is read."""
    keeper = ModelCheckpoint(monitor=monitor, mode=mode)
    keeper.best_model_score = None if best is None else torch.tensor(best)
    return SimpleNamespace(callback_metrics={"val/loss": torch.tensor(0.5)}, checkpoint_callback=keeper)


@pytest.mark.parametrize(("mode", "best", "found"), [("max", 0.75, 0.75), ("min", 0.75, None), ("max", None, None)])
def test_the_best_is_what_is_to_be_large(mode, best, found):
    """A loss would be taken for an accuracy."""
    metrics = read_metrics(finished(mode, best))
    assert metrics["val/loss"] == 0.5
    assert metrics.get("best") == found


def test_another_metric_is_not_taken_for_accuracy():
    metrics = read_metrics(finished(best=0.75, monitor="val/auroc"))
    assert metrics["best/auroc"] == 0.75
    assert "best" not in metrics


def test_without_a_keeper_there_is_no_best():
    assert read_metrics(SimpleNamespace(callback_metrics={}, checkpoint_callback=None)) == {}


def test_a_run_that_goes_on_keeps_its_earlier_epochs(tmp_path):
    run = Run(tmp_path)
    parts = dict.fromkeys(("load_s", "train_s", "wait_s", "run_s", "images_s"), 1.0)
    rows = [{"epoch": i, "ranks": [], **parts} for i in range(4)]
    module = SimpleNamespace(confusion=torch.eye(2, dtype=torch.long))
    Results(run, rows[:3], {}).on_fit_end(finished(), module)
    earlier = run.record
    assert earlier["confusion"] == [[1, 0], [0, 1]]
    Results(run, rows[2:], earlier).on_fit_end(finished(best=0.95), SimpleNamespace(confusion=None))
    assert [row["epoch"] for row in run.record["epoch_times"]] == [0, 1, 2, 3]
    assert run.record["metrics"]["best"] == pytest.approx(0.95)
    before = run.record
    Results(run, [], before).on_fit_end(finished(best=0.1), module)  # it had nothing to do
    assert run.record == before
