"""Runs on a real Slurm: ranks on two nodes, arrays, faults, pre-emption, sbatch scripts."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from hct_lightning.training.checkpoints import load_checkpoint

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

SMALL = (
    "data.scene_size=128",
    "data.resolution=128",
    "data.train=160",
    "data.valid=10",
    "data.batch_size=2",
    "export=[]",
    "slurm.cpus_per_task=2",
    "slurm.mem_gb=4",
)
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
    return load_checkpoint(run / "checkpoints" / "last.ckpt")[0]["global_step"]


@pytest.fixture(scope="module")
def undisturbed(slurm, tmp_path_factory) -> Path:
    """Four ranks on two nodes, waited for."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = slurm.hct(*DDP4_ON_TWO_NODES, "trainer.max_epochs=4", f"hydra.sweep.dir={folder}", cwd=folder)
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
        *DDP4_ON_TWO_NODES,
        "trainer.max_epochs=4",
        "slurm.wait=false",
        "logger=wandb",
        "logger.wandb.mode=offline",
        f"hydra.sweep.dir={tmp_path}",
        cwd=tmp_path,
    )
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
    ends = [load_checkpoint(folder / "0" / "checkpoints" / "last.ckpt")[0] for folder in (undisturbed, tmp_path)]
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
        "+experiment=ddp4",
        "+slurm=nodes",
        "trainer.devices=2",
        "data=folder",
        f"data.root={tmp_path}/images",
        "data.resolution=128",
        "data.batch_size=2",
        "slurm.cpus_per_task=2",
        f"hydra.sweep.dir={tmp_path}/sweep",
        cwd=tmp_path,
        status=1,
    )
    assert "FAILED" in done.stdout
    assert "b/10.png" in done.stdout
    said = record(tmp_path / "sweep" / "0")
    assert said["status"] == "failed"
    assert "b/10.png" in said["reason"]
    job = job_of(tmp_path / "sweep")
    assert any("b/10.png" in log_of(tmp_path / "sweep", job, rank) for rank in range(4))
    assert int(slurm.job(job)["ExitCode"].partition(":")[0]) != 0


def test_a_sweep_is_an_array_left_alone_asked_about_and_gone_on_with(slurm, tmp_path):
    sweep = tmp_path / "sweep"
    done = slurm.hct(
        "+slurm=cpu",
        *SMALL,
        "trainer.max_epochs=1",
        "model.drop_rate=0,0.1,2",
        "slurm.at_once=2",
        "slurm.wait=false",
        f"hydra.sweep.dir={sweep}",
        cwd=tmp_path,
    )
    jobs = [point["job"] for point in json.loads((sweep / "slurm.json").read_text())]
    array = jobs[0].partition("_")[0]
    assert jobs == [f"{array}_{i}" for i in range(3)]
    assert f"submitted job {array}: 3 point(s)" in done.stdout
    assert f"python -m hct_lightning.slurm {sweep}" in done.stdout
    assert "PENDING" in slurm.state(sweep)  # two at a time
    ended = ("COMPLETED", "FAILED")
    wait_until(lambda: all(slurm.job(job)["JobState"] in ended for job in jobs))
    rows = [line for line in slurm.state(sweep).splitlines() if f"{array}_" in line]
    for row, rate, states in zip(
        rows,
        ("0", "0.1", "2"),
        2 * [("COMPLETED", "completed")] + [("FAILED", "failed")],
        strict=False,
    ):
        assert all(word in row for word in (f"model.drop_rate={rate}", *states))
    assert "job" in rows[-1]
    assert "drop" in rows[-1]  # the reason

    # The sweep again: what is done stays as it is, what has failed fails again.
    first = [record(sweep / str(i))["ended"] for i in range(3)]
    done = slurm.hct(f"run={sweep}", "+slurm=cpu", "slurm.wait=true", cwd=tmp_path, status=1)
    second = [record(sweep / str(i))["ended"] for i in range(3)]
    assert (first[:2], first[2] != second[2]) == (second[:2], True)
    # One run of it, further.
    slurm.hct(f"run={sweep}/0", "+slurm=cpu", "trainer.max_epochs=2", cwd=tmp_path)
    assert step_of(sweep / "0") == 2 * 80
    assert "COMPLETED" in slurm.state(sweep / "0")


def test_the_time_of_an_array_is_up_and_it_goes_on_until_it_is_cancelled(slurm, tmp_path):
    slurm.hct(
        "+slurm=cpu",
        *SMALL,
        "trainer.max_epochs=100000",
        "seed=1,2",
        "slurm.timeout_min=2",
        "slurm.signal_delay_s=30",
        "slurm.wait=false",
        f"hydra.sweep.dir={tmp_path}",
        cwd=tmp_path,
    )
    array = job_of(tmp_path).partition("_")[0]
    points = [(f"{array}_{i}", tmp_path / str(i)) for i in range(2)]
    wait_until(lambda: all(slurm.job(job)["Restarts"] == "1" for job, _ in points))
    saved = [step_of(run) for _, run in points]
    logs = [lambda job=job: log_of(tmp_path, job, 0) for job, _ in points]
    wait_until(lambda: all(log().partition("resuming from")[2].count("epoch ") > 1 for log in logs))
    slurm.run("scancel", array)
    for (job, run), before in zip(points, saved, strict=True):
        wait_until(lambda job=job: slurm.job(job)["JobState"] == "CANCELLED")
        wait_until(lambda run=run: record(run)["status"] != "running", longest_s=20)
        assert record(run)["reason"] == "Terminated: SIGTERM"
        assert record(run)["status"] == "interrupted"
        assert step_of(run) > before
    time.sleep(8)  # longer than Slurm waits before it starts a requeued job
    assert all(slurm.job(job)["JobState"] == "CANCELLED" for job, _ in points)


def test_sbatch_alone_with_a_notice_before_training_and_one_in_it(slurm, tmp_path):
    script = Path(__file__).parents[2] / "slurm" / "ddp4.sbatch"
    said = slurm.run(
        "sbatch",
        "--parsable",
        "--nodes=2",
        "--ntasks-per-node=2",
        "--gres=gpu:2",
        "--mem=4G",
        "--cpus-per-task=2",
        str(script),
        *SMALL[:-2],
        "trainer.max_epochs=3",
        cwd=tmp_path,
    )
    job = said.stdout.strip()
    run, log = tmp_path / "outputs" / f"slurm-{job}", tmp_path / f"hct-{job}.log"
    wait_until(lambda: record(run).get("status") == "running")
    slurm.run("scancel", "--signal=USR2", job)
    wait_until(lambda: slurm.job(job)["Restarts"] == "1")
    wait_until(lambda: "epoch 1/3" in log.read_text())
    slurm.run("scancel", "--signal=USR2", job)
    wait_until(lambda: slurm.job(job)["JobState"] == "COMPLETED")
    assert slurm.job(job)["Restarts"] == "2"
    assert record(run)["status"] == "completed"
    assert record(run)["slurm"]["tasks"] == 4
    assert step_of(run) == 60
    assert "COMPLETED" in slurm.state(run)


def test_options_reach_the_job(slurm, tmp_path):
    slurm.hct(
        "+slurm=cpu",
        *SMALL,
        "slurm.wait=false",
        "+slurm.environment.HCT_TOLD='a b'",
        "slurm.setup=['export HCT_SET=1']",
        "slurm.account=physics",
        "+slurm.sbatch.begin=now+1hour",
        "slurm.container=hct.sqsh",
        "slurm.python='nice python3'",
        f"hydra.sweep.dir={tmp_path}",
        cwd=tmp_path,
    )
    job = job_of(tmp_path)
    assert slurm.job(job)["JobState"] == "PENDING"
    slurm.run("scancel", job)
    script = (tmp_path / "slurm" / job / f"{job}_submission.sh").read_text()
    for line in (
        "export HCT_TOLD='a b'\n",
        "export HCT_SET=1\n",
        "#SBATCH --account=physics\n",
        "#SBATCH --signal=USR2@120\n",
        " --container-image=hct.sqsh ",
        " --kill-on-bad-exit=1 ",
        " --cpus-per-task=2 nice python3 -u -m submitit",
        "#SBATCH --mem=4GB\n",
    ):
        assert line in script
    done = slurm.hct("+slurm=cpu", "slurm.partition=none", cwd=tmp_path, status=1)
    assert "error: sbatch refuses" in done.stderr
    assert "invalid partition" in done.stderr
    done = slurm.hct("+slurm=cpu", "trainer.devices=auto", cwd=tmp_path, status=1)
    assert "trainer.devices=auto: Slurm has to be told" in done.stderr
    done = slurm.hct("+slurm=cpu", "seed=7", f"hydra.sweep.dir={tmp_path}", cwd=tmp_path, status=1)
    assert "holds runs with other options" in done.stderr
