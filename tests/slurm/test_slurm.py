"""Runs on a real Slurm: ranks on two nodes, arrays, faults, pre-emption, sbatch scripts."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from hct_lightning.network import load_checkpoint

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

SMALL = (
    "data.scene_size=128", "data.resolution=128", "data.train=160", "data.valid=10",
    "data.batch_size=2", "export=[]", "slurm.cpus_per_task=2", "slurm.mem_gb=4",
)  # fmt: skip
DDP4_ON_TWO_NODES = ("+experiment=ddp4", "+slurm=nodes", "trainer.devices=2", *SMALL)


def wait_until(true: Callable[[], bool], *, longest_s: float = 240) -> None:
    deadline = time.monotonic() + longest_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def record(run: Path) -> dict:
    path = run / "run.json"
    return json.loads(path.read_text()) if path.exists() else {}


def log_of(folder: Path, job: str, rank: int) -> str:
    path = folder / "slurm" / job / f"{job}_{rank}_log.err"
    return path.read_text() if path.exists() else ""


def job_of(folder: Path) -> str:
    return json.loads((folder / "slurm.json").read_text())[-1]["job"]


def step_of(run: Path) -> int:
    return load_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"]


@pytest.fixture(scope="module")
def undisturbed(slurm, tmp_path_factory) -> Path:
    """Four ranks on two nodes, waited for."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = slurm.hct(
        *DDP4_ON_TWO_NODES, "trainer.max_epochs=4", f"hydra.sweep.dir={folder}", cwd=folder
    )
    (folder / "stdout.txt").write_text(done.stdout)
    return folder


def test_ddp4_on_two_nodes_counts_as_one_process_does(slurm, cli, undisturbed):
    run = undisturbed / "0"
    said = record(run)
    assert said["status"] == "completed"
    assert said["slurm"]["tasks"] == 4
    assert said["slurm"]["nodes"] == "node[1-2]"
    assert said["global_batch"] == 8
    assert step_of(run) == 80
    assert "cpu x 4" in log_of(undisturbed, job_of(undisturbed), 0)
    assert torch.tensor(said["confusion"]).sum() == 10  # four ranks, ten images: each once
    cli("task=validate", f"run={run}", "ckpt=last", cwd=undisturbed)
    alone = json.loads((run / "validate" / "last.json").read_text())
    assert alone["confusion"] == said["confusion"]
    for name, value in alone["metrics"].items():
        assert said["metrics"][name] == pytest.approx(value, rel=2e-2), name
    shown = (undisturbed / "stdout.txt").read_text()
    assert f"submitted job {job_of(undisturbed)}" in shown
    assert "COMPLETED" in shown


def test_preempted_it_is_requeued_and_ends_bitwise_as_undisturbed(slurm, undisturbed, tmp_path):
    """A job of a higher partition takes both nodes, in the middle of an epoch."""
    slurm.hct(
        *DDP4_ON_TWO_NODES, "trainer.max_epochs=4", "slurm.wait=false", "logger=wandb",
        "logger.wandb.mode=offline", f"hydra.sweep.dir={tmp_path}", cwd=tmp_path,
    )  # fmt: skip
    job, run = job_of(tmp_path), tmp_path / "0"
    wait_until(lambda: "epoch 1/" in log_of(tmp_path, job, 0))
    slurm.run("sbatch", "-p", "high", "-N", "2", "-c", "16", "-o", "/dev/null", "--wrap", "sleep 3")
    wait_until(lambda: record(run)["status"] == "interrupted")
    saved = step_of(run)
    assert 20 <= saved < 80
    assert f"saved step {saved} in" in log_of(tmp_path, job, 0)
    wait_until(lambda: slurm.job(job)["JobState"] == "COMPLETED")
    assert slurm.job(job)["Restarts"] == "1"
    said = record(run)
    assert said["status"] == "completed"
    assert said["slurm"]["restarts"] == 1
    assert "resuming from" in log_of(tmp_path, job, 0)
    ends = [
        load_checkpoint(folder / "0" / "checkpoints" / "last.ckpt")
        for folder in (undisturbed, tmp_path)
    ]
    assert ends[0]["global_step"] == ends[1]["global_step"] == 80
    for key, value in ends[0]["state_dict"].items():
        assert torch.equal(value, ends[1]["state_dict"][key]), key
    parts = [path.name.rpartition("-")[2] for path in run.glob("wandb/offline-run-*")]
    assert parts == [said["id"], said["id"]]  # two lives, one W&B run


def test_a_failing_rank_fails_the_job_soon_with_its_cause(slurm, tmp_path):
    """A file that is cut in the middle: one rank finds out in training."""
    for name in ("train/a", "train/b", "valid/a", "valid/b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(22):
            noise = Image.effect_noise((160, 160), 50).convert("RGB")
            noise.save(tmp_path / f"images/{name}/{i:02}.png")
    cut = tmp_path / "images" / "train" / "b" / "10.png"
    cut.write_bytes(cut.read_bytes()[:9000])
    done = slurm.hct(
        "+experiment=ddp4", "+slurm=nodes", "trainer.devices=2", "data=folder",
        f"data.root={tmp_path}/images", "data.resolution=128", "data.batch_size=2",
        "slurm.cpus_per_task=2", f"hydra.sweep.dir={tmp_path}/sweep", cwd=tmp_path, status=1,
    )  # fmt: skip
    assert "FAILED" in done.stdout
    assert "b/10.png" in done.stdout.splitlines()[-1]
    said = record(tmp_path / "sweep" / "0")
    assert said["status"] == "failed"
    assert "b/10.png" in said["reason"]
    job = job_of(tmp_path / "sweep")
    assert any("b/10.png" in log_of(tmp_path / "sweep", job, rank) for rank in range(4))
    assert int(slurm.job(job)["ExitCode"].partition(":")[0]) != 0


def test_a_sweep_is_an_array_left_alone_and_asked_about(slurm, tmp_path):
    done = slurm.hct(
        "+slurm=cpu", *SMALL, "trainer.max_epochs=1", "model.drop_rate=0,0.1,0.9,2",
        "slurm.at_once=3", "slurm.wait=false", f"hydra.sweep.dir={tmp_path}/sweep", cwd=tmp_path,
    )  # fmt: skip
    jobs = [point["job"] for point in json.loads((tmp_path / "sweep/slurm.json").read_text())]
    array = jobs[0].partition("_")[0]
    assert jobs == [f"{array}_{i}" for i in range(4)]
    assert f"submitted job {array}: 4 point(s)" in done.stdout
    assert f"python -m hct_lightning.slurm {tmp_path}/sweep" in done.stdout
    assert "%3" in (next((tmp_path / "sweep/slurm").glob(f"{array}*/*.sh")).read_text())
    first = slurm.state(tmp_path / "sweep")
    assert "PENDING" in first
    assert "model.drop_rate=0.9" in first
    wait_until(lambda: all(slurm.job(job)["JobState"] in ("COMPLETED", "FAILED") for job in jobs))
    rows = [line for line in slurm.state(tmp_path / "sweep").splitlines() if array in line]
    assert [("COMPLETED" in row, "completed" in row) for row in rows[:3]] == 3 * [(True, True)]
    assert "FAILED" in rows[3]
