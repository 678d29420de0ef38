"""Several real ranks against one process: the same counts, the same weights."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hct_lightning.training.checkpoints import load_checkpoint

# BatchNorm sees the batch of its rank; frozen, and without dropout and stochastic depth, ranks and parts must not matter.
# In fp32 rounding can turn a ReLU over for a whole even area of a drawn scene, and with it the gradient; in fp64 it does not.
FROZEN = (
    "data.scene_size=128",
    "data.resolution=128",
    "data.train=80",
    "data.valid=10",
    "model.drop_rate=0",
    "drop_path_rate=0",
    "trainer.precision=64-true",
    "trainer.max_epochs=1",
    "callbacks=freeze_batch_norm",
    "export=[]",
    "schedule=constant",
    "optim=sgd",
    "optim.lr=1e-4",
    "optim.reference_batch=8",
)


def weights(run) -> dict[str, torch.Tensor]:
    return load_checkpoint(run / "checkpoints" / "last.ckpt")[0]["state_dict"]


@pytest.fixture(scope="module")
def one_process(cli, tmp_path_factory):
    """Ten steps of eight images."""
    run = tmp_path_factory.mktemp("one") / "run"
    cli(*FROZEN, "data.batch_size=8", f"hydra.run.dir={run}", cwd=run.parent)
    return run


@pytest.mark.parametrize(
    "options",
    [
        ("trainer.devices=2", "data.batch_size=4"),
        ("data.batch_size=8", "micro_batches=3"),
        pytest.param(
            ("trainer.devices=2", "data.batch_size=4", "gradients=k_sync", "gradients.k=2"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("trainer.devices=2", "data.batch_size=4", "micro_batches=3"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["two ranks", "micro-batches", "a parameter server", "both"],
)
def test_same_weights_after_ten_steps(cli, one_process, tmp_path, options):
    run = tmp_path / "run"
    cli(*FROZEN, *options, f"hydra.run.dir={run}", cwd=tmp_path)
    assert load_checkpoint(run / "checkpoints" / "last.ckpt")[0]["global_step"] == 10
    ours, theirs = weights(run), weights(one_process)
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-9, atol=1e-12, msg=key)
    # What started at 0 shows that training moved the weights far beyond those tolerances.
    moved = [key for key in ours if key.endswith(("bn1.bias", "bn2.bias"))]
    a, b = (torch.cat([w[key] for key in moved]) for w in (ours, theirs))
    assert (a - b).norm() < 0.01 * b.norm()


@pytest.mark.slow
def test_resumed_on_another_number_of_ranks_the_global_batches_are_the_same(environment, cli, one_process, tmp_path):
    """Two ranks killed in the middle of an epoch; one goes on, in micro-batches."""
    run = tmp_path / "run"
    options = ("trainer.devices=2", "data.batch_size=4", "callbacks.last.every_steps=1")
    child = subprocess.Popen(
        [sys.executable, "-m", "hct_lightning", *FROZEN, *options, f"hydra.run.dir={run}"],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    last = run / "checkpoints" / "last.ckpt"
    while not last.exists() and child.poll() is None:
        time.sleep(0.002)
    child.kill()
    child.wait()
    assert load_checkpoint(last)[0]["global_step"] < 10
    options = ("trainer.devices=1", "micro_batches=3")
    done = cli(f"run={run}", *options, cwd=tmp_path)
    assert "global batch of 8, and keeps it" in done.stderr
    assert load_checkpoint(last)[0]["global_step"] == 10
    ours, theirs = weights(run), weights(one_process)
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-9, atol=1e-12, msg=key)


@pytest.mark.parametrize(
    "images",
    [
        pytest.param(7, id="one rank pads", marks=pytest.mark.slow),
        pytest.param(3, id="one has none", marks=pytest.mark.slow),
    ],
)
def test_ddp4_validates_every_image_once(cli, tmp_path, images):
    """Four ranks; equal to one process afterwards."""
    run = tmp_path / "run"
    done = cli(
        "+experiment=ddp4",
        "data.resolution=128",
        "data.scene_size=128",
        "data.train=64",
        f"data.valid={images}",
        "trainer.max_epochs=1",
        "trainer.precision=64-true",
        "export=[]",
        f"hydra.run.dir={run}",
        cwd=tmp_path,
    )
    assert "cpu x 4" in done.stderr
    record = json.loads((run / "run.json").read_text())
    cli("task=validate", f"run={run}", "ckpt=last", "trainer.devices=1", cwd=tmp_path)
    alone = json.loads((run / "validate" / "last.json").read_text())
    assert torch.tensor(record["confusion"]).sum() == images
    assert alone["confusion"] == record["confusion"]
    for name, value in alone["metrics"].items():
        assert record["metrics"][name] == pytest.approx(value, rel=1e-4), name


def torchrun(*args: str, cwd: Path, environment: dict[str, str]) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "hct_lightning", *args]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=280)


@pytest.mark.slow
def test_runs_under_torchrun_in_one_folder(environment, tiny, tmp_path):
    """The default, with the time in its name."""
    done = torchrun(*tiny, "trainer.devices=2", "export=[]", cwd=tmp_path, environment=environment)
    assert done.returncode == 0, done.stderr
    (run,) = tmp_path.glob("outputs/*/*")
    assert json.loads((run / "run.json").read_text())["status"] == "completed"
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert len(list(tmp_path.glob("outputs/*/*/.hydra/overrides.yaml"))) == 1


@pytest.mark.slow
def test_a_failure_under_torchrun_is_said_once_and_recorded(environment, tiny, tmp_path):
    options = (*tiny, "trainer.devices=2", "data.batch_size=400")
    done = torchrun(*options, cwd=tmp_path, environment=environment)
    assert done.returncode == 1
    assert done.stderr.count("error: 24 training images are fewer than one global batch of 800") == 1
    (run,) = tmp_path.glob("outputs/*/*")
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "failed"
    assert record["reason"].startswith("ValueError: 24 training images")


def test_torchruns_other_ranks_leave_questions_to_the_first(environment, tmp_path):
    done = torchrun("--cfg", "job", cwd=tmp_path, environment=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ckpt: null") == 1


def test_synchronised_batch_norm_is_refused_on_the_cpu(cli, tiny, tmp_path):
    done = cli(*tiny, "trainer.devices=2", "trainer.sync_batchnorm=true", cwd=tmp_path, status=1)
    assert "trainer.sync_batchnorm=true needs GPUs" in done.stderr


@pytest.mark.slow
def test_rank_zero_exports_while_the_other_waits(cli, tiny, tmp_path):
    run = tmp_path / "run"
    cli(*tiny, "trainer.devices=2", f"hydra.run.dir={run}", cwd=tmp_path)
    for name in ("torchscript", "torchscript_int8"):
        description = json.loads((run / "artifacts" / name / "artifact.json").read_text())
        assert description["metrics"]["images"] == 10
    assert json.loads((run / "run.json").read_text())["status"] == "completed"


@pytest.mark.slow
@pytest.mark.parametrize("end", [("trainer.max_steps=7",), ("trainer.max_epochs=-1", "trainer.max_time=00:00:00:04")])
def test_ranks_that_end_within_an_epoch_validate_together(cli, tmp_path, end):
    run = tmp_path / "run"
    options = ("trainer.devices=2", "data.batch_size=1", "trainer.check_val_every_n_epoch=1000")
    cli(*FROZEN, *options, *end, f"hydra.run.dir={run}", cwd=tmp_path)
    best, last = (load_checkpoint(run / "checkpoints" / f"{name}.ckpt")[0] for name in ("best", "last"))
    assert best["global_step"] == last["global_step"]
    assert all(torch.equal(value, best["state_dict"][name]) for name, value in last["state_dict"].items())
    assert json.loads((run / "run.json").read_text())["status"] == "completed"
