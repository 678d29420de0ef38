import csv
import json
import logging
import shutil

from hct_lightning.callbacks.export import LOGGED, ExportAtEnd
from hct_lightning.data.datamodule import ImageData
from hct_lightning.deploy.runtimes import torchscript
from hct_lightning.training.metrics_csv import MetricsCSV


def export_at_end(evaluation: int) -> ExportAtEnd:
    exporters = {"mine": torchscript.export}
    return ExportAtEnd(exporters, dynamic=False, calibration=2, evaluation=evaluation, license=None)


def test_the_best_checkpoint_becomes_an_artifact_and_its_figures_are_logged(fit, trained, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(trained / "checkpoints" / "best.ckpt", tmp_path / "checkpoints")
    fit(export_at_end(evaluation=4), logger=MetricsCSV(tmp_path), data={"resolution": 128})
    artifact = tmp_path / "artifacts" / "mine"
    metrics = json.loads((artifact / "artifact.json").read_text())["metrics"]
    with (tmp_path / "metrics.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert int(last["step"]) == 4
    assert {key: float(last[f"export/mine/{key}"]) for key in LOGGED} == {key: metrics[key] for key in LOGGED}
    size = sum(file.stat().st_size for file in artifact.iterdir() if file.name not in ("artifact.json", "README.md"))
    assert float(last["export/mine/size_mb"]) * 1e6 == size


def test_where_no_image_can_be_read_artifacts_are_made_and_not_compared(fit, trained, tmp_path, monkeypatch, caplog):
    """It is found out at the end of a run, of which nothing is to be lost."""
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(trained / "checkpoints" / "best.ckpt", tmp_path / "checkpoints")
    monkeypatch.setattr(ImageData, "evaluation", lambda self, count: [])
    with caplog.at_level(logging.WARNING):
        fit(export_at_end(evaluation=4), data={"resolution": 128})
    assert "artifacts are made, and not compared with the network: none of the validation images" in caplog.text
    metrics = json.loads((tmp_path / "artifacts" / "mine" / "artifact.json").read_text())["metrics"]
    assert metrics["time_ms"] > 0
    assert "accuracy" not in metrics


def test_without_a_best_checkpoint_there_is_a_warning_and_no_artifact(fit, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        fit(export_at_end(evaluation=0))
    assert f"nothing exported: there is no {tmp_path}/checkpoints/best.ckpt" in caplog.text
    assert not (tmp_path / "artifacts").exists()
