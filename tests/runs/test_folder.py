"""A run's folder and its record. How it records an end: test_endings.py."""

import pytest

from hct_lightning.runs.folder import Run


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
