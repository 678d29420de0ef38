"""Training through the real command line."""

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module

from hct_lightning.tasks.fit import build_optimizer
from hct_lightning.training.checkpoints import load_checkpoint


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def state_of(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    checkpoint = load_checkpoint(run / "checkpoints" / f"{name}.ckpt")[0]
    moments = checkpoint["optimizer_states"][0]["state"]
    flat = {f"moments.{i}.{key}": torch.as_tensor(value) for i, s in moments.items() for key, value in s.items()}
    return checkpoint["state_dict"] | flat | {"step": torch.tensor(checkpoint["global_step"])}


def assert_bitwise(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert not [key for key in a if not torch.equal(a[key], b[key])]


@pytest.mark.slow
def test_without_validation_there_is_the_last_checkpoint_alone(cli, tiny, tmp_path):
    options = ("trainer.limit_val_batches=0", "trainer.max_epochs=1", "fit.report=false")
    done = cli(*tiny, *options, f"hydra.run.dir={tmp_path}/run", cwd=tmp_path)
    assert "trainer.limit_val_batches=0: nothing is validated" in done.stderr
    assert "task=export ckpt=last makes artifacts of the last" in done.stderr
    assert "ModelCheckpoint" not in done.stderr
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["last.ckpt"]
    cli("task=export", f"run={tmp_path}/run", "ckpt=last", "export=[torchscript]", "export.evaluation=0", cwd=tmp_path)
    assert (tmp_path / "run" / "artifacts" / "torchscript" / "artifact.json").is_file()


def test_a_run_is_a_folder_with_everything_in_it(trained):
    record = json.loads((trained / "run.json").read_text())
    assert record["status"] == "completed"
    assert record["reason"] is None
    assert record["classes"] == sorted(record["classes"])
    assert record["data"]["images"] == {"train": 24, "valid": 10}
    assert record["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {p.name for p in (trained / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert {p.name for p in (trained / "artifacts").iterdir()} == {
        "torchscript",
        "torchscript_int8",
    }
    assert (trained / ".hydra" / "overrides.yaml").exists()
    assert "epoch 2/2" in (trained / "run.log").read_text()


def test_metrics_csv_has_the_epochs_figures(trained):
    epochs = [row for row in rows_of(trained) if row["val/accuracy"]]
    assert [row["epoch"] for row in epochs] == ["0", "1"]
    for row in epochs:
        load, train, run = (float(row[f"time/{part}_s"]) for part in ("load", "train", "run"))
        assert load > 0
        assert train > 0
        assert load + train == pytest.approx(run, rel=1e-4)
        assert float(row["memory/peak_gib"]) > 0.1
        assert 0 <= float(row["val/auroc"]) <= 1
    assert any(row["lr-AdamW/pg1"] for row in rows_of(trained))
    last = rows_of(trained)[-1]
    for name in ("torchscript", "torchscript_int8"):
        assert 0 <= float(last[f"export/{name}/accuracy"]) <= 1
        assert float(last[f"export/{name}/time_ms"]) > 0
        assert 1 < float(last[f"export/{name}/size_mb"]) < 8
    assert float(last["export/torchscript_int8/agreement"]) >= 0.8


def test_what_was_measured_is_kept_where_exporting_fails(cli, tiny, tmp_path):
    """Gone on with, the run has nothing left to train, and would measure nothing."""
    options = ("export=[torchscript]", "+export.torchscript.nonsense=1", "trainer.max_epochs=1", "fit.report=false")
    cli(*tiny, *options, f"hydra.run.dir={tmp_path}/run", cwd=tmp_path, status=1)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "failed"
    assert record["metrics"]["val/accuracy"] == record["metrics"]["best"]
    assert [row["epoch"] for row in record["epoch_times"]] == [0]


def test_tables_of_results_and_times_end_the_run(trained):
    out = (trained / "stdout.txt").read_text()
    for part in ("balanced accuracy", "loading", "training", "running", "artifact torchscript"):
        assert part in out


def test_killed_in_the_middle_of_an_epoch_and_resumed_ends_bitwise_the_same(cli, trained, environment, tiny, tmp_path):
    """With dropout on, and bf16 where the hardware has it."""
    run = tmp_path / "run"
    command = [*tiny, "callbacks.last.every_steps=1", f"hydra.run.dir={run}"]
    child = subprocess.Popen(
        [sys.executable, "-m", "hct_lightning", *command],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    last = run / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.wait()
    step = load_checkpoint(last)[0]["global_step"]
    assert 0 < step < 12
    assert step % 6, "killed at the end of an epoch: nothing is shown"

    cli(f"run={run}", cwd=tmp_path)
    assert_bitwise(state_of(run), state_of(trained))
    assert [r["epoch"] for r in rows_of(run) if r["val/accuracy"]] == ["0", "1"]
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "completed"


def test_ctrl_c_says_how_to_go_on(trained, environment, tiny, tmp_path):
    run = tmp_path / "run"
    command = [*tiny, "trainer.max_epochs=500", f"hydra.run.dir={run}"]
    child = subprocess.Popen(
        [sys.executable, "-m", "hct_lightning", *command],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    while "epoch 2/" not in child.stderr.readline():
        assert child.poll() is None
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert err.splitlines()[-1] == f"interrupted; go on with: python -m hct_lightning run={run}"
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"
    load_checkpoint(run / "checkpoints" / "last.ckpt")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [(), ("trainer.precision=64-true", "callbacks=default")], ids=["fp32", "averages in fp64"]
)
def test_resuming_at_the_end_of_an_epoch_is_bitwise_too_and_can_go_further(cli, trained, tiny, tmp_path, options):
    one = (*tiny[:6], "trainer.max_epochs=1", "schedule=constant", *options)
    two = (*tiny[:6], "trainer.max_epochs=2", "schedule=constant", *options)
    cli(*one, f"hydra.run.dir={tmp_path}/a", "export=[]", cwd=tmp_path)
    cli(f"run={tmp_path}/a", "trainer.max_epochs=2", cwd=tmp_path)
    cli(*two, f"hydra.run.dir={tmp_path}/b", "export=[]", cwd=tmp_path)
    assert_bitwise(state_of(tmp_path / "a"), state_of(tmp_path / "b"))


@pytest.mark.slow
def test_seed_decides(cli, trained, tiny, tmp_path):
    cli(*tiny, "seed=1", f"hydra.run.dir={tmp_path}/other", "export=[]", cwd=tmp_path)
    ours, other = state_of(trained), state_of(tmp_path / "other")
    assert not torch.equal(ours["network.network.stem.conv.weight"], other["network.network.stem.conv.weight"])


@pytest.mark.slow
def test_fine_tunes_from_a_checkpoint_and_from_the_original_layout(cli, trained, tiny, tmp_path):
    from hct_lightning.models import HCT
    from hct_lightning.models.original import original_key

    published = tmp_path / "hct.pt"
    weights = {original_key(k, 3): v for k, v in HCT().state_dict().items()}
    torch.save({"state_dict": weights}, published)
    for checkpoint in (published, trained / "checkpoints" / "best.ckpt"):
        run = tmp_path / checkpoint.stem
        cli(
            *tiny,
            f"ckpt={checkpoint}",
            "optim.lr=1e-12",
            "export=[]",
            "trainer.max_epochs=1",
            f"hydra.run.dir={run}",
            cwd=tmp_path,
        )
    stem = "network.network.stem.conv.weight"
    torch.testing.assert_close(state_of(tmp_path / "hct")[stem], weights["conv_stages.first_conv.weight"])
    torch.testing.assert_close(state_of(tmp_path / "best")[stem], state_of(trained, "best")[stem])


@pytest.mark.slow
def test_back_to_the_best_checkpoint_it_ends_bitwise_where_it_ended(cli, trained, tiny, tmp_path):
    """The first epoch's counts as the best; a run that has ended and goes on loses nothing."""
    run = tmp_path / "run"
    first = ("callbacks.best.monitor=epoch", "callbacks.best.mode=min")
    cli(*tiny, *first, "export=[]", f"hydra.run.dir={run}", cwd=tmp_path)
    ended, rows = json.loads((run / "run.json").read_text()), rows_of(run)
    done = cli(f"run={run}", "ckpt=best", cwd=tmp_path)
    assert "back at step 6: metrics.csv and checkpoints of later steps are written anew" in done.stderr
    assert "other options" not in done.stderr
    assert_bitwise(state_of(run), state_of(trained))
    for before, after in zip(rows, rows_of(run), strict=True):
        assert {k: v for k, v in after.items() if k[:4] not in ("time", "memo")} == {
            k: v for k, v in before.items() if k[:4] not in ("time", "memo")
        }
    cli(f"run={run}", cwd=tmp_path)
    again = json.loads((run / "run.json").read_text())
    assert [row["epoch"] for row in again["epoch_times"]] == [0, 1]
    assert again["metrics"]["val/loss"] == ended["metrics"]["val/loss"]
    assert again["confusion"] == ended["confusion"]


@pytest.mark.slow
def test_options_given_on_resuming_take_effect_from_any_folder_and_stay(cli, trained, pictures, tmp_path):
    """A relative root, another rate and decay; then once more, without saying them again."""
    small = ("data=folder", "data.root=pictures", "data.resolution=128", "data.batch_size=4", "export=[]")
    timm = ("model=timm", "model.model_name=test_convnext", "schedule=constant")
    cli(*small, *timm, "trainer.max_epochs=1", "hydra.run.dir=run", cwd=tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    new = ("trainer.max_epochs=2", "optim.lr=0.01", "optim.optimizer.weight_decay=0.3", f"fit.against={trained}")
    done = cli("run=../run", *new, cwd=elsewhere)
    assert "optim.lr=0.01 instead of 0.002, optim.optimizer.weight_decay=0.3 instead of 0.05" in done.stderr
    assert "the learning rate is 0.005 from here on; the checkpoint's was 0.001" in done.stderr
    assert "speed-up per image against" in done.stderr
    done = cli("run=../run", "trainer.max_epochs=3", cwd=elsewhere)
    assert "other options than before: trainer.max_epochs=3 instead of 2\n" in done.stderr
    checkpoint, _ = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert checkpoint["global_step"] == 9
    assert [group["weight_decay"] for group in checkpoint["optimizer_states"][0]["param_groups"]] == [0.3, 0.0]
    assert {group["lr"] for group in checkpoint["optimizer_states"][0]["param_groups"]} == {0.005}


@pytest.mark.slow
def test_a_time_ends_a_run_whose_epochs_are_open(cli, tiny, tmp_path):
    timm = ("model=timm", "model.model_name=test_convnext", "export=[]")
    limits = ("trainer.max_epochs=-1", "trainer.max_time=00:00:00:15")
    cli(*tiny, *timm, *limits, f"hydra.run.dir={tmp_path}/run", cwd=tmp_path)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "completed"
    rates = [float(rate) for row in rows_of(tmp_path / "run") for name, rate in row.items() if "lr-" in name and rate]
    assert rates[-1] < 0.3 * max(rates)  # the cosine has come down in that time


def test_bad_options_end_with_one_clear_line(cli, tiny, tmp_path):
    cases = {
        ("data.batch_size=0",): r"data\.batch_size=0: give a whole number of at least 1",
        ("data=folder", "data.root=nowhere"): r"data\.root=nowhere: there is no",
        ("model._target_=os.system",): r"model\._target_=os\.system is none of the public classes",
        (*tiny, "fit.against=nowhere"): "fit.against=nowhere: there is no run in",
        ("run=nowhere",): "run=nowhere is not the folder of an earlier run",
    }
    for args, message in cases.items():
        done = cli(*args, cwd=tmp_path, status=1)
        last = [line for line in done.stderr.splitlines() if line.startswith("error:")]
        assert len(last) == 1
        assert re.search(message, last[0]), done.stderr
        assert "Traceback" not in done.stderr


def test_debug_fast_passes_through_everything(cli, tiny, tmp_path):
    cli(
        *tiny,
        "debug=fast",
        "model=timm",
        "logger=wandb",
        "logger.wandb.mode=offline",
        f"hydra.run.dir={tmp_path}/run",
        cwd=tmp_path,
    )
    assert not (tmp_path / "run" / "artifacts").exists()


class Evil:
    """Unpickled without care, it makes the file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path]]:
        return Path.touch, (self.canary,)


def test_a_strangers_checkpoint_and_folder_run_nothing(cli, tiny, trained, tmp_path):
    canary = tmp_path / "canary"
    torch.save({"state_dict": Evil(canary)}, tmp_path / "evil.ckpt")
    said = cli(*tiny, f"ckpt={tmp_path}/evil.ckpt", cwd=tmp_path, status=1).stderr.splitlines()[-1]
    assert said.startswith(f"error: {tmp_path}/evil.ckpt is not a checkpoint, or it is damaged")

    run = shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "evil.ckpt").replace(run / "checkpoints" / "last.ckpt")
    recorded = run / ".hydra" / "overrides.yaml"
    load = "{_target_: lightning.fabric.utilities.cloud_io._load, path_or_url: x, weights_only: false}"
    evil = ["safety.allow=[os]", f"+hydra.callbacks.x={load}", f"+logger.x={load}", f"predict.output={canary}"]
    honest = recorded.read_text()
    recorded.write_text(honest + "".join(f'- "{override}"\n' for override in evil))
    done = cli(f"run={run}", "trainer.max_epochs=3", cwd=tmp_path, status=1)
    assert "says 'safety.allow=[os]" in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: {run}/checkpoints/last.ckpt is not a checkpoint")
    recorded.write_text(f'{honest}- "+callbacks.x={{_target_: os.getcwd}}"\n')
    done = cli(f"run={run}", "trainer.max_epochs=3", cwd=tmp_path, status=1)
    assert "callbacks.x._target_=os.getcwd is none of" in done.stderr.splitlines()[-1]
    assert not canary.exists()


@pytest.mark.parametrize(
    ("options", "accelerator", "fused"),
    [
        (["optim=adamw"], "cuda", True),
        ([], "cuda", None),
        (["optim=sgd"], "cuda", True),
        (["optim=adamw", "trainer.gradient_clip_val=1"], "cuda", None),
        (["optim=adamw", "+optim.optimizer.fused=false"], "cuda", False),
        (["optim.optimizer={_target_:torch.optim.RMSprop,_partial_:true}"], "cuda", None),
        (["optim=adamw"], "cpu", None),
    ],
)
def test_an_optimiser_is_fused_where_it_can_be(options, accelerator, fused):
    with initialize_config_module("hct_lightning.conf", version_base="1.3"):
        build = build_optimizer(compose("config", overrides=options), accelerator)
    weight = torch.ones(2, requires_grad=True)
    assert build([weight], lr=0.1).defaults.get("fused") is fused


def test_a_fused_optimiser_goes_on_from_one_that_was_not():
    """With the moments and the kind of the one that was saved."""
    states = []
    for fused in (None, True):
        weight = torch.ones(4, requires_grad=True)
        optimizer = torch.optim.AdamW([weight], lr=0.1, fused=fused)
        if states:
            optimizer.load_state_dict(states[0])
        weight.grad = torch.arange(4.0)
        optimizer.step()
        states.append(optimizer.state_dict())
    assert states[1]["state"][0]["step"] == 2
    assert states[1]["param_groups"][0]["fused"] is None


def test_compile_does_not_go_with_low_memory(cli, tiny, tmp_path):
    done = cli(*tiny, "compile=true", "memory=low", cwd=tmp_path, status=1)
    assert "error: compile=true does not go with memory=low" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_compiled_network_is_trained_saved_and_predicts_as_one_that_is_not(cli, tiny, photos, tmp_path):
    options = (*tiny, "compile=true", "export=[]", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}/run")
    cli(*options, cwd=tmp_path, timeout=800)
    answers = [
        cli("task=predict", f"run={tmp_path}/run", f"predict.input={photos}", f"compile={on}", cwd=tmp_path).stdout
        for on in ("true", "false")
    ]
    first, second = ([float(row.split(",")[2]) for row in text.splitlines()[1:]] for text in answers)
    assert first == pytest.approx(second, abs=0.02)
