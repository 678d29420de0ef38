"""Validating a finished run, through the real command line."""

import json

import pytest
import torch

from hct_lightning.report.predictions import read_predictions


def test_validate_repeats_what_training_measured(cli, trained):
    done = cli("task=validate", f"run={trained}", "ckpt=last", cwd=trained.parent)
    result = json.loads((trained / "validate" / "last.json").read_text())
    record = json.loads((trained / "run.json").read_text())
    for name in ("accuracy", "auroc", "f1", "balanced_accuracy"):
        assert result["metrics"][f"val/{name}"] == record["metrics"][f"val/{name}"]
    confusion = torch.tensor(result["confusion"])
    assert confusion.sum() == 10
    assert confusion.diag().sum() / 10 == pytest.approx(result["metrics"]["val/accuracy"])
    assert "Confusion" in done.stdout
    found = read_predictions(trained / "validate" / "last.csv")
    assert found.accuracy == pytest.approx(result["metrics"]["val/accuracy"])
    assert all(found.thumbnail(row).exists() for row in found.worst())


def test_validate_leaves_the_runs_hydra_folder_alone(cli, trained):
    before = {p.name: p.read_bytes() for p in (trained / ".hydra").iterdir()}
    cli("task=validate", f"run={trained}", "ckpt=last", "data.resolution=256", cwd=trained.parent)
    assert {p.name: p.read_bytes() for p in (trained / ".hydra").iterdir()} == before
    result = json.loads((trained / "validate" / "last.json").read_text())
    assert result["resolution"] == [256, 256]


def test_validate_refuses_data_with_other_classes(cli, trained, photos):
    done = cli("task=validate", f"run={trained}", "data=folder", f"data.root={photos}", cwd=trained.parent, status=1)
    assert "the checkpoint was trained on dots, grid" in done.stderr
