"""Options of callbacks given on resuming, and a run whose folder was moved."""

import shutil

import pytest
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
