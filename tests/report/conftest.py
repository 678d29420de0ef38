"""Folders of runs for reports."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from run_folders import add_artifact, add_predictions, write_run


def add_explanations(folder: Path) -> None:
    """Of one image, by one method, beside one that could not be read; and a receptive field."""
    about = {"jpg": "a/gradient.jpg", "png": "a/gradient.png", "correlation_with_random": 0.125}
    image = {
        "path": "/photos/<i>.jpg",
        "class": "cat",
        "probability": 0.9,
        "target": "cat",
        "maps": {"gradient": about},
    }
    field = {"network": "HCT", "weights": "trained", "half_side_50": 0.25, "half_side_95": 0.5}
    (folder / "explain" / "a").mkdir(parents=True)
    for name in ("a/gradient.jpg", "receptive_field.jpg"):
        Image.new("RGB", (64, 48), "orange").save(folder / "explain" / name)
    record = {"images": [image, {"path": "broken.jpg", "error": "why"}], "receptive_field": [field]}
    (folder / "explain" / "explain.json").write_text(json.dumps(record))


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
    (folder / "export").mkdir()
    rows = [
        {
            "percent": p,
            "accuracy": 0.9 - p / 1000,
            "agreement": 1.0,
            "size_bytes": 7e6 - 5e4 * p,
            "time_ms": 30 - p / 10,
        }
        for p in (0, 50, 100)
    ]
    (folder / "export" / "openvino_int8.json").write_text(json.dumps({"rows": rows, "sensitivity": {}}))
    (folder / "benchmark").mkdir()
    side = {"size": "64x64", "batch": 1, "device": "cpu"}
    took = (("plain eager", 0.2), ("torchscript", 0.1))
    sides = [{"side": name, **side, "p50_s": s, "speed": 0.2 / s} for name, s in took]
    found = {
        "title": "Inference",
        "rows": sides,
        "more": [{"title": "Accuracy", "rows": [{"side": "torchscript", "accuracy": 0.9}]}],
    }
    (folder / "benchmark" / "benchmark.json").write_text(json.dumps(found))
    (folder / "profile").mkdir()
    (folder / "profile" / "fit-summary-0.txt").write_text(PROFILE)
    return folder


PROFILE = """Per training batch, of 3:
computation                      12.00 ms

--------------------  ------------  ------------  ------------
                Name    Self CPU %      Self CPU    # of Calls
--------------------  ------------  ------------  ------------
       ProfilerStep*        19.00%       1.900ms             3
           aten::add        10.50%       1.050ms            30
   aten::convolution        70.25%       7.025ms            12
--------------------  ------------  ------------  ------------
Self CPU time total: 10.000ms
"""
