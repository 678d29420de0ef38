"""Training on images of their own sizes, whole and streamed, through the real command line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from PIL import Image

from hct_lightning.deploy.artifact import load_artifact
from hct_lightning.tasks.fit import exporters_of
from hct_lightning.training.checkpoints import load_checkpoint, load_network

OPTIONS = (
    "recipe=plain",
    "data=folder",
    "data.resolution=native",
    "data.batch_size=2",
    "trainer.max_epochs=1",
    "model.blocks=[1,1,1,1,1]",
    "export.evaluation=2",
    "export.calibration=2",
    "fit.report=false",
)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Two classes of noise, of two and one images, each of another size."""
    root = tmp_path_factory.mktemp("native")
    rng = np.random.default_rng(0)
    for split, count in (("train", 2), ("valid", 1)):
        for label in "ab":
            for i in range(count):
                file = root / split / label / f"{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                height, width = rng.integers(256, 400, 2)
                Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(file)
    return root


def test_every_image_keeps_its_size_and_stands_alone(cli, images, tmp_path):
    run = tmp_path / "run"
    command = (*OPTIONS, f"data.root={images}", "export=[torchscript]", f"hydra.run.dir={run}")
    done = cli(*command, cwd=tmp_path)
    assert "-> as they are" in done.stderr
    assert "in 2 micro-batches of about 1 images a rank" in done.stderr
    network, spec = load_network(run / "checkpoints" / "best.ckpt")
    assert spec.decoding.size is None
    artifact = load_artifact(run / "artifacts" / "torchscript")
    odd = torch.randint(0, 256, (1, 3, 333, 271), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(artifact(odd), network(odd).softmax(1), rtol=0, atol=1e-3)
    cli("task=validate", f"run={run}", cwd=tmp_path)
    assert json.loads((run / "validate" / "best.json").read_text())["resolution"] == "native"


def test_memory_stream_trains_and_freezes_the_first_statistics(cli, images, tmp_path):
    run = tmp_path / "run"
    done = cli(*OPTIONS, f"data.root={images}", "memory=stream", f"hydra.run.dir={run}", cwd=tmp_path)
    assert "memory=stream: the first stages take an image in tiles" in done.stderr
    assert "nothing is exported at the end" in done.stderr
    assert json.loads((run / "run.json").read_text())["memory_plan"]["memory"] == "stream"
    state = load_checkpoint(run / "checkpoints" / "last.ckpt")[0]["state_dict"]
    means = {name: value for name, value in state.items() if name.endswith("running_mean")}
    frozen = {name for name, value in means.items() if not value.any()}
    assert frozen == {name for name in means if ".stages." in name and int(name.split(".stages.")[1][0]) < 3}


@pytest.mark.slow
def test_two_ranks_stream_resume_and_end_as_one(cli, images, tmp_path):
    """Bitwise with themselves; with one rank to rounding, and BatchNorm of later stages sees one image in both."""
    command = (*OPTIONS, f"data.root={images}", "memory=stream", "model.drop_rate=0", "trainer.max_epochs=2")
    two, twice = tmp_path / "two", tmp_path / "twice"
    ranks = ("trainer.devices=2", "data.batch_size=1")
    cli(*command, *ranks, f"hydra.run.dir={two}", cwd=tmp_path)
    cli(*command, *ranks, "trainer.max_steps=2", f"hydra.run.dir={twice}", cwd=tmp_path)
    cli(f"run={twice}", "trainer.max_steps=-1", cwd=tmp_path)
    a, b = (load_checkpoint(run / "checkpoints" / "last.ckpt")[0]["state_dict"] for run in (two, twice))
    assert not [name for name in a if not torch.equal(a[name], b[name])]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_place_decides_and_at_a_third_of_the_size_it_does_not(cli, tmp_path):
    """The recipe of docs/training.md, with 1536 px in the place of 12,000: streamed, and reduced."""

    def trained(name: str, small: int, large: str) -> float:
        crops, run = tmp_path / f"{name}-384", tmp_path / name
        places = ("data.train=400", "data.valid=40", f"data.root={tmp_path}/needles")
        recipe = ("data=needles", "data.batch_size=16", "trainer.max_epochs=6", "export=[]")
        cli(*recipe, *places, f"data.resolution={small}", f"hydra.run.dir={crops}", cwd=tmp_path, timeout=400)
        weights = f"ckpt={crops}/checkpoints/best.ckpt"
        more = ("data.scene_size=1536", f"data.root={tmp_path}/needles", f"data.resolution={large}")
        cli("+experiment=needles", weights, *more, f"hydra.run.dir={run}", cwd=tmp_path, timeout=400)
        cli("task=validate", f"run={run}", cwd=tmp_path)
        return json.loads((run / "validate" / "best.json").read_text())["metrics"]["val/accuracy"]

    assert trained("full", 384, "native") >= 0.95
    assert trained("reduced", 128, "512") <= 0.8


@pytest.mark.slow
def test_what_does_not_go_with_it_is_refused(cli, images, tmp_path):
    for options, message in (
        (("memory=stream", "model=timm"), "ResNet can't be streamed; HCT can"),
        (("memory=stream", "data.augment.contrast=0.2"), "data.augment.contrast=0.2 changes whole images"),
        (("export=[openvino]",), "export=openvino takes one size"),
        (("task=prepare", f"prepare.output={tmp_path}/store"), "the images of a store have one size"),
    ):
        given = [option for option in OPTIONS if not option.startswith("model.") or "model=timm" not in options]
        done = cli(*given, f"data.root={images}", *options, f"hydra.run.dir={tmp_path}/run", cwd=tmp_path, status=1)
        assert message in done.stderr.splitlines()[-1]


def test_streamed_runs_export_nothing():
    with initialize_config_module("hct_lightning.conf", version_base="1.3"):
        cfg = compose("config", overrides=["memory=stream"])
    assert exporters_of(cfg) == {}
