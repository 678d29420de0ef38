"""What goes wrong ends the whole run, soon, with the cause last; what was saved stays whole."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from hct_lightning.training.checkpoints import load_checkpoint

pytestmark = pytest.mark.slow

LONG = ("trainer.max_epochs=2000", "data.num_workers=0", "export=[]")


def start(args, environment, cwd: Path, **options) -> subprocess.Popen:
    cwd.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "hct_lightning", *args, f"hydra.run.dir={cwd}/run"],
        cwd=cwd,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        **options,
    )


def wait_for(child: subprocess.Popen, text: str) -> None:
    for line in child.stderr:
        if text in line:
            return
    pytest.fail(f"ended with {child.wait()} before {text!r}")


def other_ranks(child: subprocess.Popen) -> list[int]:
    pids = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    return [int(pid) for pid in pids if b"hct_lightning" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended may wait as a zombie for its parent."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def finish(child: subprocess.Popen, run: Path) -> tuple[str, dict]:
    """What was said after the fault, and the record; the checkpoint must be whole."""
    _, err = child.communicate(timeout=90)
    if (run / "checkpoints" / "last.ckpt").exists():
        load_checkpoint(run / "checkpoints" / "last.ckpt")
    assert not list(run.rglob("*.tmp"))
    return err, json.loads((run / "run.json").read_text())


def test_ctrl_c_ends_all_ranks(environment, tiny, tmp_path):
    child = start((*tiny, *LONG, "trainer.devices=2"), environment, tmp_path)
    wait_for(child, "epoch 2/")
    ranks = other_ranks(child)
    assert len(ranks) == 1
    began = time.monotonic()
    child.send_signal(signal.SIGINT)
    err, record = finish(child, tmp_path / "run")
    assert child.returncode == 130
    assert time.monotonic() - began < 15
    assert "go on with" in err.splitlines()[-1]
    assert record["status"] == "interrupted"
    while any(alive(pid) for pid in ranks):
        assert time.monotonic() - began < 20
        time.sleep(0.1)


@pytest.mark.parametrize("who", ["rank 0", "rank 1", "everyone"])
def test_sigterm_saves_the_step_and_ends_all_ranks(environment, tiny, tmp_path, who):
    # Long epochs: a signal in validation ends the run without saving.
    options = (*tiny, *LONG[:1], "data.train=160", "data.num_workers=1", "export=[]", "trainer.devices=2")
    child = start(options, environment, tmp_path, start_new_session=True)
    wait_for(child, "epoch 2/")
    rank = other_ranks(child)[0]
    before = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")[0]["global_step"]
    began = time.monotonic()
    if who == "everyone":
        os.killpg(child.pid, signal.SIGTERM)
    else:
        os.kill(child.pid if who == "rank 0" else rank, signal.SIGTERM)
    err, record = finish(child, tmp_path / "run")
    assert child.returncode == 143
    assert time.monotonic() - began < 15
    assert "go on with" in err.splitlines()[-1]
    assert record["status"] == "interrupted"
    saved = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")[0]["global_step"]
    assert saved > before
    assert f"saved step {saved}" in err
    while alive(rank):
        assert time.monotonic() - began < 20
        time.sleep(0.1)


def test_a_rank_is_killed(environment, tiny, tmp_path):
    child = start((*tiny, *LONG, "trainer.devices=2"), environment, tmp_path)
    wait_for(child, "epoch 2/")
    os.kill(other_ranks(child)[0], signal.SIGKILL)
    began = time.monotonic()
    err, record = finish(child, tmp_path / "run")
    assert child.returncode == 1
    assert time.monotonic() - began < 15
    assert record["status"] == "failed"
    assert "rank 1 has died: it was ended by SIGKILL" in record["reason"]
    assert "rank 1 has died: it was ended by SIGKILL" in err.splitlines()[-1]


def test_the_first_rank_is_killed_and_no_rank_is_left(environment, tiny, tmp_path):
    child = start((*tiny, *LONG, "trainer.devices=2"), environment, tmp_path)
    wait_for(child, "epoch 2/")
    rank = other_ranks(child)[0]
    child.kill()
    child.communicate()
    deadline = time.monotonic() + 5
    while alive(rank):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_an_exception_on_one_rank_is_the_cause_that_is_named(environment, tmp_path):
    """A file that is cut in the middle: its header is fine, so one rank finds out in training."""
    for name in ("train/a", "train/b", "valid/a", "valid/b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(22):
            noise = Image.effect_noise((160, 160), 50).convert("RGB")
            noise.save(tmp_path / f"images/{name}/{i:02}.png")
    cut = tmp_path / "images" / "train" / "b" / "10.png"
    cut.write_bytes(cut.read_bytes()[:9000])
    child = start(
        (
            "data=folder",
            f"data.root={tmp_path}/images",
            "data.resolution=128",
            *LONG,
            "data.batch_size=4",
            "trainer.devices=2",
            "trainer.log_every_n_steps=2",
        ),
        environment,
        tmp_path,
    )
    wait_for(child, "global batch 8")
    err, record = finish(child, tmp_path / "run")
    assert child.returncode == 1
    assert "b/10.png" in record["reason"]
    assert "b/10.png" in err.splitlines()[-1]
    assert record["status"] == "failed"


WATCHDOG = """
import os
from lightning.pytorch.callbacks import Callback

class Watchdog(Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_rank == 1 and trainer.global_step == 4:
            raise RuntimeError("the cause")

    def on_exception(self, trainer, module, error):
        if trainer.global_rank == 0:
            os.abort()
"""


def test_the_cause_is_said_also_where_losing_a_rank_aborts_the_others(environment, tiny, tmp_path):
    """As NCCL's watchdog does it."""
    (tmp_path / "watchdog.py").write_text(WATCHDOG)
    path = os.pathsep.join((str(tmp_path), environment.get("PYTHONPATH", "")))
    options = ("trainer.devices=2", "+callbacks.a._target_=watchdog.Watchdog", "safety.allow=[watchdog]")
    child = start((*tiny, *LONG, *options), environment | {"PYTHONPATH": path}, tmp_path)
    wait_for(child, "epoch 1/")
    err, record = finish(child, tmp_path / "run")
    assert child.returncode == 1
    assert err.splitlines()[-1] == "error: RuntimeError: the cause"
    assert "in on_train_batch_start" in err
    assert (record["status"], record["reason"]) == ("failed", "RuntimeError: the cause")


@pytest.mark.timeout(1200)
def test_ten_kills_and_ten_resumes_end_bitwise_where_an_undisturbed_run_does(environment, tiny, tmp_path, cli):
    """With the default recipe (crops, averaged weights, Muon), dropout, and statistics that are frozen in the end;
    killed at random moments, of starting and of saving too."""
    assert tiny[0] == "recipe=plain"
    options = (
        *tiny[1:],
        "data.scene_size=192",
        "data.resolution=192",
        "data.channels=1",  # of which Muon leaves the first layer to AdamW
        "callbacks.batch_norm.freeze=0.3",
        "trainer.max_epochs=40",
        "trainer.devices=2",
        "data.batch_size=2",
        "export=[]",
        "data.num_workers=0",
        "callbacks.last.every_steps=3",
    )
    began = time.monotonic()
    child = start(options, environment, tmp_path / "undisturbed")
    wait_for(child, "epoch 1/")
    starting_s = time.monotonic() - began
    child.communicate()
    last = tmp_path / "killed" / "run" / "checkpoints" / "last.ckpt"
    moments = random.Random(0)
    for life in range(10):
        saved_at = last.stat().st_mtime if last.exists() else 0
        command = (f"run={last.parents[1]}",) if saved_at else options
        child = start(command, environment, tmp_path / "killed")
        if life % 3 == 1:
            time.sleep(moments.uniform(0, starting_s))
        else:  # it has gone on a little
            while (last.stat().st_mtime if last.exists() else 0) == saved_at:
                assert child.poll() is None, child.communicate()
                time.sleep(0.01)
            time.sleep(moments.uniform(0, 0.5))
        child.kill()
        child.communicate()
        assert child.returncode == -signal.SIGKILL
    cli(f"run={last.parents[1]}", cwd=tmp_path)
    ends = [
        load_checkpoint(tmp_path / name / "run" / "checkpoints" / "last.ckpt")[0] for name in ("undisturbed", "killed")
    ]
    assert ends[0]["global_step"] == ends[1]["global_step"] == 240
    for weights in ("state_dict", "current_model_state"):
        for key, value in ends[0][weights].items():
            assert torch.equal(value, ends[1][weights][key]), key


def test_a_loss_that_is_not_finite(environment, tiny, tmp_path):
    child = start((*tiny, *LONG, "optim.lr=1e30", "schedule=constant"), environment, tmp_path)
    err, record = finish(child, tmp_path / "run")
    assert child.returncode == 1
    assert "error: the loss is nan at step" in err
    assert "use a smaller optim.lr" in record["reason"]


def test_a_full_disk_while_a_checkpoint_is_written(environment, tiny, tmp_path, cli):
    cli(
        *tiny[:6],
        "trainer.max_epochs=1",
        "export=[]",
        f"hydra.run.dir={tmp_path}/run",
        cwd=tmp_path,
    )
    before = (tmp_path / "run" / "checkpoints" / "last.ckpt").read_bytes()
    child = subprocess.Popen(
        [sys.executable, "-m", "hct_lightning", f"run={tmp_path}/run", "trainer.max_epochs=3"],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        # No file may grow beyond 2 MB: the write fails as on a full disk.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000)),
    )
    err, record = finish(child, tmp_path / "run")
    assert child.returncode == 1
    assert "File too large" in err
    assert record["status"] == "failed"
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").read_bytes() == before


def test_wandb_that_cannot_be_reached(cli, environment, tiny, tmp_path, monkeypatch):
    for name, value in {
        "WANDB_BASE_URL": "http://127.0.0.1:9",
        "WANDB_API_KEY": "0" * 40,
        "WANDB_INIT_TIMEOUT": "5",
    }.items():
        monkeypatch.setitem(environment, name, value)
    done = cli(*tiny, "logger=wandb", "export=[]", f"hydra.run.dir={tmp_path}/run", cwd=tmp_path)
    assert "W&B can't be reached" in done.stderr
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))
