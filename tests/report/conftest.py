"""Folders of runs for reports."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from run_folders import add_artifact, add_explanations, add_measurements, add_predictions, write_run


@pytest.fixture
def make_run(tmp_path) -> Callable[..., Path]:
    """`make_run("a", ranks=2)`: the folder of a run that has ended, of three epochs."""
    return lambda name="run", **options: write_run(tmp_path / name, **options)


@pytest.fixture
def sweep_of_three(make_run, tmp_path) -> Path:
    """A sweep over the resolution, whose last point has failed."""
    for i, resolution in enumerate((256, 512, 1024)):
        record = json.loads((make_run(f"sweep/{i}", accuracy=0.5 + i / 5) / "run.json").read_text())
        record["overrides"] = [f"data.resolution={resolution}"]
        if i == 2:
            record |= {"status": "failed", "reason": "no memory <b>left</b>", "metrics": None, "epoch_times": None}
        (tmp_path / "sweep" / str(i) / "run.json").write_text(json.dumps(record))
    (tmp_path / "sweep" / "multirun.yaml").touch()
    return tmp_path / "sweep"


@pytest.fixture
def full_run(make_run) -> Path:
    """A run of which everything has been measured."""
    folder = make_run()
    add_predictions(folder)
    add_artifact(folder, "openvino_int8")
    add_explanations(folder)
    add_measurements(folder)
    return folder
