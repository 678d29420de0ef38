"""A run's folder and its record. How it records an end: test_endings.py."""

import pytest

from hct_lightning.runs.folder import Run, refuse_replacing


def test_the_record_grows_and_only_the_rank_that_writes_adds_to_it(tmp_path):
    run = Run(tmp_path / "new" / "run")
    assert run.record == {}
    run.update(status="running", epochs=1)
    run.update(epochs=2, folder=run.folder)
    assert run.record == {"status": "running", "epochs": 2, "folder": str(run.folder)}
    other = Run(run.folder, writes=False)
    other.update(epochs=3)
    assert other.record == run.record
    other.end("failed", "ValueError: mine")  # any rank may say how it ends
    assert (run.record["status"], run.record["reason"], run.record["epochs"]) == ("failed", "ValueError: mine", 2)


def test_a_checkpoint_is_best_last_or_a_file(tmp_path):
    run = Run(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.touch()
    assert run.checkpoint("last") == run.checkpoint(str(last)) == last
    with pytest.raises(
        FileNotFoundError, match=r"ckpt=best: there is no checkpoint .*best\.ckpt \(in this run: last\)"
    ):
        run.checkpoint("best")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint elsewhere\.ckpt"):
        run.checkpoint("elsewhere.ckpt")


def test_a_run_that_left_checkpoints_is_not_replaced_by_one_with_other_options(tmp_path):
    run = Run(tmp_path)
    run.update(overrides=["seed=1"])
    refuse_replacing(tmp_path, ["seed=2"])  # it has left nothing
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.ckpt").touch()
    refuse_replacing(tmp_path, ["seed=1"])
    with pytest.raises(
        ValueError, match=rf"{tmp_path} .* best\.ckpt a new one would replace; go on with run={tmp_path}"
    ):
        refuse_replacing(tmp_path, ["seed=2"])
    run.record_path.unlink()
    with pytest.raises(ValueError, match=r"hydra\.run\.dir"):
        refuse_replacing(tmp_path, [])
