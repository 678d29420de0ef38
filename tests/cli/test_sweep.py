"""Multirun on this machine: a process per point, failures kept apart, killed and finished."""

import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from hct_lightning.cli import keep_results, sweep
from hct_lightning.runs.folder import Run
from hct_lightning.training.checkpoints import load_checkpoint

SHORT = ("trainer.max_epochs=1", "export=[]", "data.num_workers=0")


def records(sweep: Path) -> list[dict]:
    return [json.loads(file.read_text()) for file in sorted(sweep.glob("*/run.json"))]


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_point_that_fails_is_recorded_and_the_others_run(cli, tiny, tmp_path, ranks):
    """The first asks for a batch that is larger than the data."""
    done = cli(
        "-m",
        *tiny,
        *SHORT,
        "data.batch_size=400,4",
        f"trainer.devices={ranks}",
        f"hydra.sweep.dir={tmp_path}/sweep",
        cwd=tmp_path,
        status=1,
    )
    failed, completed = records(tmp_path / "sweep")
    assert failed["status"] == "failed"
    assert f"fewer than one global batch of {400 * ranks}" in failed["reason"]
    assert completed["status"] == "completed"
    assert completed["global_batch"] == 4 * ranks
    points = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert [point["options"] for point in points] == [
        {"data.batch_size": 400},
        {"data.batch_size": 4},
    ]
    assert points[1]["accuracy"] == completed["metrics"]["best"]
    assert "Pareto front" in done.stdout
    assert f"{tmp_path}/sweep/report/report.html" in done.stdout
    assert "fewer than one global batch" in (tmp_path / "sweep" / "report" / "report.md").read_text()
    assert "epoch 1/1" in done.stderr
    assert (tmp_path / "sweep" / "1" / ".hydra" / "overrides.yaml").exists()
    begun = OmegaConf.load(tmp_path / "sweep" / "multirun.yaml")
    assert [failed["overrides"], completed["overrides"]] == keep_results.points(begun)


@pytest.mark.slow
def test_killed_and_gone_on_with_ends_where_an_undisturbed_sweep_does(cli, environment, tiny, tmp_path):
    options = (
        *tiny,
        "export=[]",
        "callbacks.last.every_steps=1",
        "trainer.max_epochs=4",
        "+sweeps=resolution_batch",
        "data.resolution=128",
        "data.batch_size=2,4,6",
    )
    cli("-m", *options, f"hydra.sweep.dir={tmp_path}/whole", cwd=tmp_path)
    child = subprocess.Popen(
        [sys.executable, "-m", "hct_lightning", "-m", *options, f"hydra.sweep.dir={tmp_path}/cut"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (tmp_path / "cut/1/checkpoints/last.ckpt").exists() and child.poll() is None:
        time.sleep(0.01)
    pids = [int(p) for p in Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()]
    child.kill()
    child.wait()
    deadline = time.monotonic() + 5  # nothing goes on writing into the point's folder
    while any(os.path.exists(f"/proc/{p}/exe") for p in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    before = (tmp_path / "cut" / "0" / "run.json").stat().st_mtime
    assert load_checkpoint(tmp_path / "cut/1/checkpoints/last.ckpt")[0]["global_step"] < 24
    done = cli(f"run={tmp_path}/cut", cwd=tmp_path)
    assert "done already" in done.stderr
    assert "resuming from" in done.stderr
    assert (tmp_path / "cut" / "0" / "run.json").stat().st_mtime == before
    for name in "012":
        whole, cut = (
            load_checkpoint(tmp_path / sweep / name / "checkpoints" / "last.ckpt")[0]["state_dict"]
            for sweep in ("whole", "cut")
        )
        assert all((whole[key] == cut[key]).all() for key in whole)
    assert (tmp_path / "cut" / "sweep.png").stat().st_size > 10_000


@pytest.mark.slow
def test_earlier_runs_are_swept_over_too(cli, trained, tmp_path):
    """Other tasks put their results where they belong: into the runs."""
    cli("-m", "task=validate", f"run={trained}", "ckpt=best,last", f"hydra.sweep.dir={tmp_path}/sweep", cwd=tmp_path)
    for name in ("best", "last"):
        assert (trained / "validate" / f"{name}.json").exists()


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_point_goes_on_from_its_own_checkpoint_and_not_from_the_weights_it_began_with(tmp_path, monkeypatch, goes_on):
    begun = ["ckpt=w.ckpt", "seed=1"]
    folder = tmp_path / "0"
    Run(folder).update(overrides=begun, metrics={"best": 0.5})
    if goes_on:
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "last.ckpt").touch()
    started = []
    done = types.SimpleNamespace(wait=lambda: None, returncode=0)
    monkeypatch.setattr(sweep, "start_run", lambda command: started.extend(command) or done)
    hydra = types.SimpleNamespace(overrides=types.SimpleNamespace(task=begun))
    monkeypatch.setattr(sweep.HydraConfig, "get", lambda: hydra)
    sweep.run_point(OmegaConf.create({"run": None, "task": "fit", "ckpt": "w.ckpt"}), folder)
    assert started == (["seed=1", f'run="{folder}"'] if goes_on else [*begun, f'hydra.run.dir="{folder}"'])
