"""`task=benchmark benchmark=inference` through the command line, on small images."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from PIL import Image

from hct_lightning.benchmarks.inference.benchmark import benchmark
from hct_lightning.benchmarks.inference.one_image import is_served_in_cpp
from hct_lightning.benchmarks.inference.subjects import find
from hct_lightning.deploy import trust

CONF = Path(__file__).parents[3] / "conf"
ARTIFACT = Path(__file__).parents[2] / "formats" / "2026-11" / "run" / "artifacts" / "torchscript"
QUICK = ("benchmark.warmup=1", "benchmark.rounds=2")


def result(done, run) -> tuple[dict, dict]:
    """The ratios on the last line, and the file."""
    ratios = json.loads(done.stdout.splitlines()[-1])
    written = json.loads((run / "benchmark" / "benchmark.json").read_text())
    assert ratios == {name: round(ratio, 4) for name, ratio in written["ratios"].items()}
    with Image.open(run / "benchmark" / "inference.png") as figure:
        assert figure.size[0] > 500
    return ratios, written


@pytest.mark.slow
def test_a_run_is_measured_and_judged(trained, tiny, cli, tmp_path):
    """The run's checkpoint and artifact at its own resolution, beside a network of timm."""
    models = [trained / "checkpoints" / "best.ckpt", trained / "artifacts" / "torchscript"]
    done = cli(
        "task=benchmark",
        "benchmark=inference",
        *QUICK,
        "benchmark.baselines=false",
        "benchmark.cpp=null",
        "benchmark.accuracy=10",
        *tiny,
        f"benchmark.models=[{models[0]},{models[1]}]",
        f"hydra.run.dir={tmp_path}/run",
        cwd=tmp_path,
    )
    ratios, written = result(done, tmp_path / "run")
    assert ratios.keys() <= {"loaded_vs_benchmark"}  # nothing plain to compare with
    assert [row["side"] for row in written["rows"]][:2] == ["checkpoint", "torchscript"]
    for row in written["rows"]:
        assert row["size"] == "128x128"
        assert 0 < row["p50_s"] <= row["p90_s"] <= row["p99_s"]
        assert row["images_per_s"] == pytest.approx(1 / row["p50_s"])
        assert 6.5 < row["mb"] < 7.5
        assert 0.2 < row["peak_gib"] < 4
    judged = {row["side"]: row for row in written["more"][0]["rows"]}
    assert judged["torchscript"]["agreement"] == 1
    assert judged["torchscript"]["mcnemar_p"] == 1
    recorded = json.loads((trained / "run.json").read_text())["metrics"]
    assert judged["checkpoint"]["accuracy"] == pytest.approx(recorded["val/accuracy"])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"resolutions": [160]}, "none of the models takes images of 160x160"),
        ({"together": 1}, "benchmark.together=1"),
        ({"models": ["nowhere/artifacts/onnx"]}, "nowhere/artifacts/onnx is no folder"),
        ({"photo": "typo.jpg"}, r"benchmark\.photo=typo\.jpg is no file"),
    ],
)
def test_says_what_it_can_not_measure(trained, tmp_path, option, message):
    options = OmegaConf.to_container(OmegaConf.load(CONF / "benchmark" / "inference.yaml"))
    del options["_target_"]
    options |= {"run": None, "data": None, "output": str(tmp_path)}
    options |= {"models": [str(trained / "artifacts" / "torchscript")], "cpp": None} | option
    with pytest.raises(ValueError, match=message):
        benchmark(**options)


@pytest.mark.slow
def test_shapes_batches_and_timm(trained, cli, tmp_path):
    done = cli(
        "task=benchmark",
        "benchmark=inference",
        *QUICK,
        "benchmark.baselines=false",
        "benchmark.cpp=null",
        "benchmark.resolutions=[128,[128,192]]",
        "benchmark.batch_sizes=[1,2]",
        f"benchmark.models=[{trained}/artifacts/torchscript,resnet18]",
        f"hydra.run.dir={tmp_path}/run",
        cwd=tmp_path,
    )
    _, written = result(done, tmp_path / "run")
    sides = {(row["side"], row["size"], row["batch"]) for row in written["rows"] if "loaded" not in row["side"]}
    assert sides == {
        ("torchscript", "128x128", 1),
        ("torchscript", "128x128", 2),  # not 128x192, which it isn't for
        ("resnet18", "128x128", 1),
        ("resnet18", "128x128", 2),
        ("resnet18", "128x192", 1),
        ("resnet18", "128x192", 2),
    }


@pytest.mark.slow
def test_every_ratio_on_a_fresh_network(cli, photos, tmp_path):
    photo = photos / "Plant" / "blue-periwinkle.jpg"
    done = cli(
        "task=benchmark",
        "benchmark=inference",
        *QUICK,
        "benchmark.resolutions=[256]",
        "benchmark.artifacts=[torchscript]",
        "benchmark.profile=true",
        f"benchmark.photo={photo}",
        f"hydra.run.dir={tmp_path}/run",
        cwd=tmp_path,
    )
    ratios, written = result(done, tmp_path / "run")
    assert set(ratios) == {
        "best_vs_eager",
        "best_vs_tuned_eager",
        "best_vs_torchscript_int8",
        "best_vs_tuned_torchscript_int8",
        "torchscript_vs_eager",
        "cpp_vs_python",
        "file_to_answer",
        "loaded_vs_benchmark",
        "predict_vs_parts",
        "folder_at_a_time",
        "best_vs_limit",
    }
    assert all(ratio > 0 for ratio in ratios.values())
    assert "C++ torchscript" in {row["side"] for row in written["rows"]}
    assert written["more"][0]["title"].startswith("From a JPEG of 512x512")


def test_the_cpp_program_is_not_given_what_it_would_have_to_trust(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    model = find(ARTIFACT)
    assert not is_served_in_cpp(model)
    assert f"{ARTIFACT} was not exported here" in caplog.text
    trust.remember(model.about["sha256"][model.about["file"]])
    assert is_served_in_cpp(model)
    assert not is_served_in_cpp(model._replace(decoding=replace(model.decoding, channels=4)))
