"""Options of callbacks given on resuming, and a run whose folder was moved."""

import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from hct_lightning.callbacks.own_options import OwnOptions


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_run_resumed_in_another_folder_knows_its_best_score(fit, tmp_path):
    def best(folder: str) -> ModelCheckpoint:
        return ModelCheckpoint(
            tmp_path / folder, "best", monitor="val/accuracy", mode="max", enable_version_counter=False
        )

    fit(before := best("before"), EarlyStopping("val/accuracy", patience=3, mode="max"), enable_checkpointing=True)
    shutil.move(tmp_path / "before", tmp_path / "after")
    after, stopping = best("after"), EarlyStopping("val/accuracy", patience=7, mode="max")
    fit(OwnOptions(), after, stopping, enable_checkpointing=True, ckpt_path=tmp_path / "after" / "best.ckpt")
    assert after.best_model_score == before.best_model_score
    file = str(tmp_path / "after" / "best.ckpt")
    assert (after.best_model_path, list(after.best_k_models), after.kth_best_model_path) == (file, [file], file)
    assert (stopping.patience, stopping.best_score) == (7, before.best_model_score)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize("where", ["{folder}/../precious", "{folder}/sub/../../precious", "{top}/precious", "{folder}"])
def test_a_checkpoint_names_no_file_elsewhere_to_be_replaced(fit, tmp_path, where):
    """What was the best so far is deleted when there is a better one."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").touch()
    folder = tmp_path / "checkpoints"

    def best() -> ModelCheckpoint:
        return ModelCheckpoint(folder, "best-{epoch}", monitor="val/accuracy", mode="max")

    fit(best(), enable_checkpointing=True)
    (file,) = folder.glob("*.ckpt")
    evil = where.format(folder=folder, top=tmp_path)
    saved = torch.load(file, weights_only=True)
    (state,) = saved["callbacks"].values()
    state |= {"best_k_models": {evil: torch.tensor(-1.0)}, "kth_best_model_path": evil, "kth_value": torch.tensor(-1.0)}
    torch.save(saved, tmp_path / "evil.ckpt")
    after = best()
    fit(OwnOptions(), after, enable_checkpointing=True, ckpt_path=tmp_path / "evil.ckpt", max_epochs=2)
    assert (tmp_path / "precious" / "thesis.txt").exists()
    assert file.exists()
    assert Path(after.best_model_path).parent == folder
