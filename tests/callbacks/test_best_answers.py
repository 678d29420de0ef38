"""What a run leaves behind about its validation images."""

import csv
import json
from types import SimpleNamespace

import pytest
from PIL import Image

from hct_lightning.callbacks.best_answers import BestAnswers
from hct_lightning.report.predictions import read_predictions


def test_the_predictions_are_those_of_the_best_checkpoint(trained):
    found = read_predictions(trained / "validate" / "best.csv")
    record = json.loads((trained / "run.json").read_text())
    assert found.classes == record["classes"]
    assert len(found.labels) == record["data"]["images"]["valid"]
    assert found.accuracy == pytest.approx(record["metrics"]["best"])


def test_small_images_of_the_best_and_the_worst_lie_beside(trained):
    found = read_predictions(trained / "validate" / "best.csv")
    shown = {found.thumbnail(row) for row in (*found.best(), *found.worst())}
    assert set((trained / "validate" / "best").iterdir()) == shown
    with Image.open(shown.pop()) as image:
        assert image.format == "JPEG"
        assert max(image.size) <= 256


def test_small_images_that_fail_are_a_warning(tmp_path, caplog):
    (tmp_path / "validate").mkdir()
    (tmp_path / "validate" / "best.csv").write_text("nothing of ours")
    data = SimpleNamespace(dataset=SimpleNamespace(reader=None))
    BestAnswers().on_fit_end(SimpleNamespace(is_global_zero=True, default_root_dir=tmp_path, datamodule=data), None)
    assert "no small images for the report: " in caplog.text
    assert "best.csv is damaged" in caplog.text


def test_training_accuracy_is_logged_every_epoch(trained):
    with (trained / "metrics.csv").open() as file:
        values = [row["train/accuracy"] for row in csv.DictReader(file) if row["train/accuracy"]]
    assert len(values) == 2
    assert all(0 <= float(value) <= 1 for value in values)
