"""Models as artifacts of W&B, read back from what an offline run holds."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import wandb
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from wandb_files import pieces

from hct_lightning.callbacks.wandb_models import WandbModels, as_model
from hct_lightning.deploy.artifact import read_descriptions
from hct_lightning.runs import secrets


@pytest.fixture
def logged(fit, trained, tmp_path, monkeypatch):
    """Trains with `log_model` as given, and gives the artifacts that W&B holds by name."""
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "wandb"))
    shutil.copytree(trained / "artifacts", tmp_path / "artifacts")

    def run(log_model: Any, *, artifacts: bool = True, mode: str = "offline") -> dict[str, Any]:
        logger = WandbLogger(project="p", save_dir=tmp_path, id="one", mode=mode, log_model=log_model)
        best = ModelCheckpoint(tmp_path / "checkpoints", "best", monitor="val/accuracy", mode="max")
        try:
            fit(best, WandbModels(artifacts=artifacts), logger=logger, enable_checkpointing=True)
        finally:
            wandb.finish()
        if mode == "disabled":
            return {}
        found = [record.artifact for record in pieces(tmp_path)[0] if record.artifact.name]
        assert {artifact.type for artifact in found} <= {"model"}
        assert len({artifact.name for artifact in found}) == len(found), "each once"
        return {artifact.name: artifact for artifact in found}

    return run


def test_a_disabled_run_leaves_no_copies(logged, tmp_path):
    logged(False, mode="disabled")
    assert not [file for file in (tmp_path / "wandb").rglob("*") if file.is_file()]


def test_artifacts_go_with_their_files_and_figures(logged, trained):
    found = logged(False)
    assert found.keys() == {"torchscript-one", "torchscript_int8-one"}
    for name, about in read_descriptions(trained / "artifacts").items():
        held = found[f"{name}-one"]
        assert json.loads(held.metadata) == about
        files = {entry.path: Path(entry.local_path) for entry in held.manifest.contents}
        originals = {file.name: file for file in (trained / "artifacts" / name).iterdir()}
        assert files.keys() == originals.keys()
        assert all(files[path].read_bytes() == file.read_bytes() for path, file in originals.items())


def test_the_best_checkpoint_goes_where_it_is_asked_for(logged, tmp_path):
    found = logged(True, artifacts=False)
    (model,) = found.values()
    assert model.name == "model-one"
    assert set(model.aliases) == {"latest", "best"}
    (entry,) = model.manifest.contents
    assert entry.path == "model.ckpt"
    assert Path(entry.local_path).read_bytes() == (tmp_path / "checkpoints" / "best.ckpt").read_bytes()
    assert 0 <= json.loads(model.metadata)["score"] <= 1


def test_no_secret_is_among_the_figures(trained, monkeypatch):
    monkeypatch.setattr(secrets, "_values", {"canary-of-a-secret"})
    about = {
        "runtime": "torchscript",
        "precision": "fp32",
        "size_bytes": 1,
        "source": "at canary-of-a-secret",
        "token": "x",
    }
    made = as_model(trained / "artifacts" / "torchscript", about, "one")
    assert made.metadata["source"] == "at ***"
    assert made.metadata["token"] == "***"
