"""Folders of strangers, with links out of them and pipes."""

import os

import pytest

from hct_lightning.runs.links import check_links


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    run = tmp_path / "run"
    (run / "wandb").mkdir(parents=True)
    (run / "wandb" / "latest-run").symlink_to("../wandb")
    check_links(run)
    (run / "run.log").symlink_to(tmp_path / ".bashrc")
    with pytest.raises(ValueError, match=r"run\.log leads to .*bashrc"):
        check_links(run)


def test_the_runs_of_a_sweep_have_links_of_wandb(tmp_path):
    logs = tmp_path / "0" / "wandb" / "offline-run" / "logs"
    logs.mkdir(parents=True)
    (logs / "debug-core.log").symlink_to("/nowhere/core-debug.log")
    with pytest.raises(ValueError, match="outside of the run's folder"):
        check_links(tmp_path)  # a folder of that name alone is nobody's
    (tmp_path / "0" / "run.json").write_text("{}")
    check_links(tmp_path)


def test_a_pipe_in_the_folder_is_refused_and_not_waited_for(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    os.mkfifo(tmp_path / "checkpoints" / "last.ckpt")
    with pytest.raises(ValueError, match=r"last\.ckpt is no file and no folder; remove it"):
        check_links(tmp_path)


def test_a_file_that_has_just_gone_is_nothing_to_complain_of(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "walk", lambda folder: [(str(folder), [], [".run.json.1-2.tmp"])])
    check_links(tmp_path)
