"""Training through the real command line."""

import csv
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from hct_lightning.runs.folder import Run
from hct_lightning.tasks.fit import checkpoint_to_resume
from hct_lightning.training.checkpoints import load_checkpoint


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def state_of(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    checkpoint = load_checkpoint(run / "checkpoints" / f"{name}.ckpt")[0]
    moments = checkpoint["optimizer_states"][0]["state"]
    flat = {f"adam.{i}.{key}": value for i, s in moments.items() for key, value in s.items()}
    return checkpoint["state_dict"] | flat | {"step": torch.tensor(checkpoint["global_step"])}


def assert_bitwise(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert not [key for key in a if not torch.equal(a[key], b[key])]


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
def test_resuming_at_the_end_of_an_epoch_is_bitwise_too_and_can_go_further(cli, trained, tiny, tmp_path):
    one = (*tiny[:5], "trainer.max_epochs=1", "schedule=constant")
    two = (*tiny[:5], "trainer.max_epochs=2", "schedule=constant")
    cli(*one, f"hydra.run.dir={tmp_path}/a", "export=[]", cwd=tmp_path)
    cli(f"run={tmp_path}/a", "trainer.max_epochs=2", cwd=tmp_path)
    cli(*two, f"hydra.run.dir={tmp_path}/b", "export=[]", cwd=tmp_path)
    assert_bitwise(state_of(tmp_path / "a"), state_of(tmp_path / "b"))


def test_seed_decides(cli, trained, tiny, tmp_path):
    cli(*tiny, "seed=1", f"hydra.run.dir={tmp_path}/other", "export=[]", cwd=tmp_path)
    ours, other = state_of(trained), state_of(tmp_path / "other")
    assert not torch.equal(ours["network.network.stem.conv.weight"], other["network.network.stem.conv.weight"])


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


def test_a_run_goes_on_from_its_last_checkpoint_alone(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    run = Run(tmp_path)
    for ckpt in (None, "last"):
        cfg = OmegaConf.create({"run": str(tmp_path), "ckpt": ckpt})
        assert checkpoint_to_resume(cfg, run) == tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(ValueError, match=r"ckpt=best: a run goes on from its last checkpoint; leave ckpt out"):
        checkpoint_to_resume(OmegaConf.create({"run": str(tmp_path), "ckpt": "best"}), run)


def test_bad_options_end_with_one_clear_line(cli, tmp_path):
    cases = {
        ("data.batch_size=0",): r"data\.batch_size=0: give at least 1",
        ("data=folder", "data.root=nowhere"): r"data\.root=nowhere: there is no",
        ("model._target_=os.system",): r"model\._target_=os\.system is not from an allowed package",
        ("run=nowhere",): "run=nowhere is not the folder of an earlier run",
    }
    for args, message in cases.items():
        done = cli(*args, cwd=tmp_path, status=1)
        last = [line for line in done.stderr.splitlines() if line.startswith("error:")]
        assert len(last) == 1
        assert re.search(message, last[0]), done.stderr
        assert "Traceback" not in done.stderr


def test_debug_fast_passes_through_everything(cli, tiny, tmp_path):
    cli(*tiny, "debug=fast", "model=timm", f"hydra.run.dir={tmp_path}/run", cwd=tmp_path)
    assert not (tmp_path / "run" / "artifacts").exists()
