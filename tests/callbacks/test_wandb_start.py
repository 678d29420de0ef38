"""The beginning of a W&B run: what it is called, and where its rows go on."""

from functools import partial
from pathlib import Path

import pytest
import wandb
from lightning.pytorch.loggers import WandbLogger
from wandb_files import pieces, read

from hct_lightning.callbacks.wandb_start import connected, name_and_group


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch):
    for name in ("WANDB_NAME", "WANDB_RUN_GROUP", "WANDB_MODE", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, "")  # so that what a test sets is gone afterwards
        monkeypatch.delenv(name)


def test_a_run_is_called_after_its_folder(tmp_path):
    assert name_and_group(tmp_path / "mine", None) == {"name": "mine"}
    by_time = Path("outputs/2026-11-25/22-59-00-123456")
    assert name_and_group(by_time, "demo") == {"name": "2026-11-25/22-59-00-123456", "group": "demo"}


def test_points_of_a_sweep_are_a_group(tmp_path):
    (tmp_path / "widths").mkdir()
    (tmp_path / "widths" / "multirun.yaml").touch()
    assert name_and_group(tmp_path / "widths" / "3", "demo") == {"name": "widths/3", "group": "widths"}


def test_what_the_environment_says_holds(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_GROUP", "theirs")
    assert name_and_group(tmp_path / "mine", "demo") == {"name": "mine"}


def test_a_folder_that_says_where_wandb_sends_things_is_refused(tmp_path, monkeypatch):
    """A stranger's would be sent the key; W&B takes such a file where it is called."""
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "settings").write_text("[default]\nbase_url = https://stranger.invalid\n")
    monkeypatch.chdir(tmp_path)
    assert tmp_path / "wandb" / "settings" in wandb.Settings().read_system_settings().sources, "W&B would read it"
    with pytest.raises(ValueError, match=r"wandb/settings says where W&B sends"):
        connected(lambda **_: pytest.fail("it begins"), None, tmp_path)


def test_offline_a_run_goes_on_behind_the_rows_that_it_has(tmp_path):
    build = partial(WandbLogger, project="p", save_dir=tmp_path, offline=False, mode="offline")
    for _ in range(3):
        logger = connected(build, "one", tmp_path, name="mine")
        for value in range(4):
            logger.log_metrics({"loss": value}, step=value)
        wandb.finish()
        wandb.teardown()  # as when a process ends
    found = pieces(tmp_path)
    assert len(found) == 3
    steps = [record.history.step.num for piece in found for record in piece if record.history.item]
    assert len(steps) == 12
    assert steps == sorted(set(steps))
    _, history, ids = read(tmp_path)
    assert ids == {"one"}
    assert history["loss"] == [0, 1, 2, 3] * 3
