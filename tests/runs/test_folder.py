"""A run's folder and its record. How it records an end: test_endings.py."""

import errno

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
    run.update(overrides=["+slurm=node", "slurm.partition=gpu", "seed=1", "ckpt=w.ckpt"])
    refuse_replacing(tmp_path, ["ckpt=w.ckpt", "seed=1", "+slurm=cpu"])  # gone on with elsewhere
    with pytest.raises(ValueError, match="a new one would replace"):
        refuse_replacing(tmp_path, ["seed=1"])
    with pytest.raises(
        ValueError, match=rf"{tmp_path} .* best\.ckpt a new one would replace; go on with run={tmp_path}"
    ):
        refuse_replacing(tmp_path, ["seed=2"])
    run.record_path.unlink()
    with pytest.raises(ValueError, match=r"hydra\.run\.dir"):
        refuse_replacing(tmp_path, [])


def test_one_process_at_a_time_makes_a_run(tmp_path, monkeypatch):
    Run(tmp_path).update(pid=77)
    with Run(tmp_path).alone():
        with (
            pytest.raises(ValueError, match=f"{tmp_path} is of a run that process 77 is training"),
            Run(tmp_path).alone(),
        ):
            pass
        with Run(tmp_path, writes=False).alone():  # another rank of it
            pass
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        with Run(tmp_path).alone():  # the lock is of a node that is gone
            pass
        monkeypatch.delenv("SLURM_RESTART_COUNT")
    with Run(tmp_path).alone():
        pass

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with Run(tmp_path).alone():
        pass
