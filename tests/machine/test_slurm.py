"""What a rank reads from Slurm's variables; tests/slurm has a real Slurm."""

import pytest

from hct_lightning.machine import slurm


@pytest.fixture(autouse=True)
def outside(monkeypatch):
    for name in ("JOB_ID", "JOB_NAME", "STEP_ID", "NTASKS", "ARRAY_JOB_ID", "ARRAY_TASK_ID", "RESTART_COUNT"):
        monkeypatch.delenv(f"SLURM_{name}", raising=False)


def job(monkeypatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", value)


def test_outside_there_is_no_job():
    assert not slurm.inside()
    assert not slurm.is_rank()
    assert slurm.tasks_without_srun() == 0
    assert slurm.restarts() == 0
    assert slurm.description() is None


def test_a_rank_of_a_job(monkeypatch):
    job(monkeypatch, JOB_ID="7", JOB_NAME="hct", STEP_ID="0", NTASKS="4", JOB_NODELIST="n[1-2]", RESTART_COUNT="1")
    assert slurm.is_rank()
    assert slurm.goes_on()
    assert slurm.description() == {"job": "7", "nodes": "n[1-2]", "tasks": 4, "restarts": 1}


def test_a_point_of_an_array(monkeypatch):
    job(monkeypatch, JOB_ID="9", ARRAY_JOB_ID="7", ARRAY_TASK_ID="2")
    assert slurm.job_id() == "7_2"


def test_a_batch_script_without_srun(monkeypatch):
    job(monkeypatch, JOB_ID="7", JOB_NAME="hct", NTASKS="4")
    assert not slurm.is_rank()
    assert slurm.tasks_without_srun() == 4


def test_a_shell_on_a_node_is_no_rank(monkeypatch):
    job(monkeypatch, JOB_ID="7", JOB_NAME="bash", STEP_ID="0", NTASKS="1")
    assert not slurm.is_rank()
    assert slurm.tasks_without_srun() == 0
