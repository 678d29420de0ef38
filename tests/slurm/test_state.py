"""What is known of submitted jobs where no Slurm answers. With a real one: test_slurm.py."""

import json
from pathlib import Path

import pytest

from hct_lightning.slurm import state


@pytest.fixture(autouse=True)
def _no_slurm(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")


def ran(folder: Path, job: str, **record: object) -> Path:
    """A run that Slurm's job has left."""
    folder.mkdir(parents=True)
    about = {"slurm": {"job": job, "restarts": 2}} | record
    (folder / "run.json").write_text(json.dumps(about))
    return folder


def test_jobs_and_their_runs_are_found_with_what_distinguishes_them(tmp_path):
    state.remember(tmp_path, ["7_0", "7_1"], [["seed=1", "optim=sgd"], ["seed=2", "optim=sgd"]])
    run = ran(tmp_path / "0", "7_0", status="running")
    (run / "metrics.csv").write_text("step,epoch,val/accuracy\n4,0,\n8,1,0.75\n")
    elsewhere = ran(tmp_path / "by-hand", "9", status="failed", reason="ValueError: mine")
    first, second, third = state.read(tmp_path)
    assert first == state.Point("7_0", "no answer", "seed=1", run, "running", None, 2, 0.75, 2)
    assert second == state.Point("7_1", "no answer", "seed=2")
    assert (third.run, third.status, third.reason) == (elsewhere, "failed", "ValueError: mine")


def test_what_slurm_ended_is_written_into_the_runs_record(tmp_path, capsys):
    run = ran(tmp_path / "0", "7", status="running")
    point = state.Point("7", "OUT_OF_MEMORY", "", run, "failed", "Slurm ended it: OUT_OF_MEMORY", 3, 0.5)
    state.settle([point, state.Point("8", "RUNNING", "")])
    record = json.loads((run / "run.json").read_text())
    assert (record["status"], record["reason"]) == ("failed", "Slurm ended it: OUT_OF_MEMORY")
    state.show([point])
    shown = capsys.readouterr().out
    assert "0.5000" in shown
    assert shown.splitlines()[-1] == "job 7: Slurm ended it: OUT_OF_MEMORY"


def test_a_folder_goes_on_with_its_own_options_alone(tmp_path):
    state.check_same(tmp_path, [["seed=1"]])  # a new one
    state.remember(tmp_path, ["7"], [["seed=1", "+slurm=node"]])
    state.check_same(tmp_path, [["seed=1", "slurm.time=60"]])
    with pytest.raises(ValueError, match=r"holds runs with other options; give another hydra\.sweep\.dir"):
        state.check_same(tmp_path, [["seed=2"]])


def test_a_folder_without_jobs_is_named(tmp_path):
    with pytest.raises(ValueError, match="nothing in this folder was run by Slurm"):
        state.read(tmp_path)


def test_a_job_that_the_accounting_does_not_know_yet_is_not_over(tmp_path, monkeypatch):
    """The controller was too busy to answer."""
    for name, lines in (("sacct", "exit 0"), ("squeue", "echo 'Socket timed out' >&2; exit 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{lines}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert state.slurm_states(["7_0"]) == {"7_0": "no answer"}
    (tmp_path / "squeue").write_text("#!/bin/sh\necho 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1\n")
    assert state.slurm_states(["7_0"]) == {"7_0": "unknown"}
