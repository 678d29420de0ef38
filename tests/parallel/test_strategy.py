"""Real ranks whose gradients need not wait: against DDP, slowed down, killed, resumed."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hct_lightning.parallel.strategy import FirstArrivals
from hct_lightning.training.checkpoints import load_checkpoint

SLOW = ("gradients.delays={distribution: fixed, mean_s: 0.15, slower: {3: 3.0}}", "trainer.devices=4")
SLOW_S = 0.9  # a gradient of the last rank, and so an update for which all ranks are waited for
SLOWER = (
    f"gradients.delays={{distribution: fixed, mean_s: 0.15, slower: {{3: {SLOW_S / 0.15}}}}}",
    "trainer.devices=4",
)
SMALL = (
    "data.scene_size=128",
    "data.resolution=128",
    "data.train=80",
    "data.valid=10",
    "data.batch_size=2",  # BatchNorm has but one value an image in the last layers
    "data.num_workers=0",
    "runtime.threads=1",
    "export=[]",
    "fit.report=false",
)


def saved(run: Path) -> dict:
    return load_checkpoint(run / "checkpoints" / "last.ckpt")[0]


def metrics(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row.get("gradients/update_s")]


def strategy(**options) -> FirstArrivals:
    given = {"scheme": "k_sync", "k": None, "delays": None} | options
    made = FirstArrivals(**given)
    made.parallel_devices = [torch.device("cpu")] * 4
    return made


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"k": 0}, "gradients.k=0: give at least 1"),
        (
            {"k": 5},
            "gradients.k=5: k_sync takes one gradient of a worker, and there are 4; give at most 4, or more workers",
        ),
        ({"scheme": "ssp"}, "gradients.scheme=ssp: choose from k_sync, k_batch_sync, k_async, k_batch_async"),
    ],
)
def test_what_cannot_be_is_refused(options, said):
    """Naming the option, with one advice."""
    with pytest.raises(ValueError, match=rf"^{re.escape(said)}$"):
        strategy(**options).setup_environment()


def test_delays_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"gradients\.delays\.distribution=slow"):
        strategy(delays={"distribution": "slow"})


@pytest.mark.slow
def test_with_all_of_four_the_weights_are_those_of_ddp(cli, tmp_path):
    options = (*SMALL, "trainer.devices=4", "trainer.max_epochs=1", "optim=sgd", "optim.lr=1e-3")
    # Averaged weights, which DDP has by default, would be other ones than those of the last step.
    options += ("trainer.gradient_clip_val=0.5", "model.drop_rate=0", "drop_path_rate=0", "callbacks=plain")
    # In fp32 the order of sums decides here and there which pixel passes the max-pool, and all its gradient goes there.
    options += ("trainer.precision=64-true",)
    cli(*options, f"hydra.run.dir={tmp_path}/ddp", cwd=tmp_path)
    cli(*options, "gradients=k_sync", "gradients.k=4", f"hydra.run.dir={tmp_path}/ours", cwd=tmp_path)
    ours, theirs = saved(tmp_path / "ours"), saved(tmp_path / "ddp")
    assert ours["global_step"] == theirs["global_step"] == 10
    for key, value in theirs["state_dict"].items():
        near = {"rtol": 1e-2, "atol": 1e-3} if "running" in key else {"rtol": 1e-3, "atol": 1e-5}
        torch.testing.assert_close(ours["state_dict"][key], value, **near, msg=key)
    moments = [run["optimizer_states"][0]["state"] for run in (ours, theirs)]
    assert moments[0].keys() == moments[1].keys()


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "k"), [("k_sync", 3), ("k_async", 3), ("k_batch_sync", 3), ("k_batch_async", 3)])
def test_a_slow_rank_is_not_waited_for(cli, tmp_path, scheme, k):
    """Two epochs of ten updates with validation, and then one more, resumed."""
    run = tmp_path / "run"
    options = (*SMALL, *SLOWER, f"gradients={scheme}", f"gradients.k={k}", "trainer.max_epochs=2")
    cli(*options, f"hydra.run.dir={run}", cwd=tmp_path)
    assert saved(run)["global_step"] == 20
    assert saved(run)["optimizer_states"][0]["state"]
    cli(f"run={run}", "trainer.max_epochs=3", cwd=tmp_path)
    assert saved(run)["global_step"] == 30
    record = json.loads((run / "run.json").read_text())
    assert torch.tensor(record["confusion"]).sum() == 10
    rows = metrics(run)
    assert len(rows) == 3
    assert all(float(row["gradients/update_s"]) < SLOW_S for row in rows)
    stale = [float(row["gradients/staleness"]) for row in rows]
    assert all(stale) if scheme.endswith("async") else not any(stale)
    dropped = [float(row["gradients/dropped"]) for row in rows]  # one of four, or those begun when ranks meet
    assert all((share > 0.15) == scheme.endswith("_sync") for share in dropped)


def start(args, environment, cwd: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "hct_lightning", *args, f"hydra.run.dir={cwd}/run"]
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    return subprocess.Popen(command, cwd=cwd, env=environment, **pipes)


def other_ranks(child: subprocess.Popen) -> list[int]:
    pids = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    return [int(pid) for pid in pids if b"hct_lightning" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def wait_for(child: subprocess.Popen, text: str) -> None:
    for line in child.stderr:
        if text in line:
            return
    pytest.fail(f"ended with {child.wait()} before {text!r}")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["k_sync", "k_async", "k_batch_async"])
def test_training_goes_on_without_a_rank_that_was_killed(environment, tmp_path, scheme):
    options = (*SMALL, *SLOW, f"gradients={scheme}", "gradients.k=2", "trainer.max_epochs=5")
    child = start(options, environment, tmp_path)
    wait_for(child, "epoch 1/")
    time.sleep(0.5)  # of training
    os.kill(other_ranks(child)[1], signal.SIGKILL)
    _, said = child.communicate(timeout=200)
    assert child.returncode == 0, said
    assert f"rank 2 is gone; training goes on with 3 ({scheme}, k=2)" in said
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "completed"
    assert torch.tensor(record["confusion"]).sum() == 10  # every image is still counted
    assert saved(tmp_path / "run")["global_step"] == 50
    assert float(metrics(tmp_path / "run")[-1]["gradients/ranks"]) == 3


@pytest.mark.slow
def test_with_fewer_than_k_left_the_run_ends_and_says_why(environment, tmp_path):
    options = (*SMALL, *SLOW, "gradients=k_sync", "gradients.k=4", "trainer.max_epochs=50")
    child = start(options, environment, tmp_path)
    wait_for(child, "epoch 2/")
    time.sleep(0.5)
    os.kill(other_ranks(child)[1], signal.SIGKILL)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 1
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "failed"
    assert "rank 2 has died: it was ended by SIGKILL" in record["reason"]
    assert "rank 2 has died: it was ended by SIGKILL" in said.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("who", ["the first rank", "the slow rank"])
def test_sigterm_saves_a_step_at_which_all_are(environment, tmp_path, cli, who):
    options = (*SMALL, *SLOW, "gradients=k_async", "trainer.max_epochs=50", "data.train=400")
    child = start(options, environment, tmp_path)
    wait_for(child, "epoch 1/")
    time.sleep(1)  # of the next, which takes ten
    os.kill(child.pid if who == "the first rank" else other_ranks(child)[2], signal.SIGTERM)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 143, said
    step = saved(tmp_path / "run")["global_step"]
    assert f"saved step {step}" in said
    done = cli(f"run={tmp_path}/run", "trainer.max_epochs=-1", f"trainer.max_steps={step + 2}", cwd=tmp_path)
    assert "resuming from" in done.stderr
    assert saved(tmp_path / "run")["global_step"] == step + 2


@pytest.mark.slow
def test_with_all_ranks_a_resumed_run_ends_bitwise_where_an_undisturbed_one_does(cli, tmp_path):
    options = (*SMALL, "trainer.devices=2", "gradients=k_sync", "gradients.k=2", "schedule=constant")
    cli(*options, "trainer.max_epochs=2", f"hydra.run.dir={tmp_path}/whole", cwd=tmp_path)
    cli(*options, "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}/parts", cwd=tmp_path)
    cli(f"run={tmp_path}/parts", "trainer.max_epochs=2", cwd=tmp_path)
    ours, theirs = saved(tmp_path / "parts"), saved(tmp_path / "whole")
    for key, value in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][key], value), key


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("trainer.max_time=00:00:01:00", "does not go with trainer.max_time"),
        ("callbacks=default", "does not go with averaged weights"),
    ],
)
def test_what_cannot_go_together_is_refused(cli, tmp_path, option, said):
    options = (*SMALL, "trainer.devices=2", "gradients=k_sync", "gradients.k=1")
    done = cli(*options, option, cwd=tmp_path, status=1)
    assert said in done.stderr
