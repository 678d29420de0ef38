"""Learning without labels through the real command line, and training from what was learned."""

import json
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_module
from PIL import Image

from hct_lightning.data.feeding.augment.augmentation import Augmentation
from hct_lightning.tasks.fit import check_task
from hct_lightning.training.checkpoints import load_checkpoint

SMALL = (
    "data.resolution=256",
    "data.batch_size=2",
    "data.augment.crop_size=128",
    "data.augment.crops=2",
    "trainer.max_epochs=2",
    "fit.report=false",
)


@pytest.fixture(scope="module")
def unlabelled(photos, tmp_path_factory) -> Path:
    """Photographs in one folder, however they are called."""
    folder = tmp_path_factory.mktemp("unlabelled")
    for i, photo in enumerate(sorted(photos.rglob("*.jpg")) * 2):
        shutil.copy(photo, folder / f"{i}.jpg")
    return folder


@pytest.fixture(scope="module")
def pretrained(cli, unlabelled, tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("pretrained")
    cli("task=pretrain", "data=unlabelled", f"data.root={unlabelled}", *SMALL, f"hydra.run.dir={home}/run", cwd=home)
    return home / "run"


def state_of(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return load_checkpoint(run / "checkpoints" / f"{name}.ckpt")[0]["state_dict"]


def test_it_leaves_a_run_whose_weights_have_no_classes(pretrained):
    record = json.loads((pretrained / "run.json").read_text())
    assert (record["task"], record["status"], record["classes"]) == ("pretrain", "completed", [])
    assert "best" not in record["metrics"]  # which would be taken for an accuracy
    assert record["options"]["pretrain.hidden"] == 0.6
    _, spec = load_checkpoint(pretrained / "checkpoints" / "best.ckpt")
    assert spec.classes == ()
    assert not (pretrained / "artifacts").exists()
    assert any(key.startswith("decoder.") for key in state_of(pretrained))
    with Image.open(pretrained / "pretrain" / "filled.jpg") as sheet:
        assert sheet.size == (3 * 256 + 2 * 8, 256)  # one image validates


@pytest.mark.slow
def test_killed_it_goes_on_by_its_folder_alone_and_ends_bitwise_the_same(
    cli, environment, pretrained, unlabelled, tmp_path
):
    run = tmp_path / "run"
    options = ("task=pretrain", "data=unlabelled", f"data.root={unlabelled}", *SMALL, "callbacks.last.every_steps=1")
    command = [sys.executable, "-m", "hct_lightning", *options, f"hydra.run.dir={run}"]
    child = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    last = run / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert 0 < load_checkpoint(last)[0]["global_step"] < 8
    cli(f"run={run}", cwd=tmp_path)
    mine, theirs = state_of(run), state_of(pretrained)
    assert mine.keys() == theirs.keys()
    assert not [key for key in mine if not torch.equal(mine[key], theirs[key])]


def test_training_begins_with_it(cli, pretrained, pictures, tmp_path):
    begun = f"ckpt={pretrained}/checkpoints/best.ckpt"
    options = (
        f"data.root={pictures}",
        "data=folder",
        "data.resolution=256",
        "data.batch_size=4",
        "export=[]",
        "fit.report=false",
    )
    done = cli(
        begun,
        *options,
        "recipe=plain",
        "optim.lr=1e-12",
        "trainer.max_epochs=1",
        f"hydra.run.dir={tmp_path}/run",
        cwd=tmp_path,
    )
    assert "the classifier begins anew" in done.stderr
    mine, theirs = state_of(tmp_path / "run"), state_of(pretrained, "best")
    name = "network.network.stages.3.0.conv.weight"
    torch.testing.assert_close(mine[name], theirs[name], rtol=0, atol=1e-6)
    assert mine["network.network.head.weight"].shape == (2, 256)


def test_ended_within_an_epoch_it_keeps_what_it_ends_with(cli, unlabelled, tmp_path):
    options = ("task=pretrain", "data=unlabelled", f"data.root={unlabelled}", *SMALL)
    run = tmp_path / "run"
    rarely = ("trainer.check_val_every_n_epoch=10", "trainer.max_steps=3")
    cli(*options, *rarely, f"hydra.run.dir={run}", cwd=tmp_path)
    assert load_checkpoint(run / "checkpoints" / "best.ckpt")[0]["global_step"] == 3
    assert "val/loss" in json.loads((run / "run.json").read_text())["metrics"]


@pytest.mark.slow
def test_a_store_of_images_without_labels_is_for_it(cli, unlabelled, tmp_path):
    done = cli(
        "task=prepare",
        "data=unlabelled",
        f"data.root={unlabelled}",
        "data.resolution=256",
        "prepare.output=store",
        cwd=tmp_path,
    )
    assert f"python -m hct_lightning task=pretrain data=store data.root={tmp_path}/store" in done.stdout
    cli("task=pretrain", "data=store", "data.root=store", *SMALL[1:], f"hydra.run.dir={tmp_path}/run", cwd=tmp_path)
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").exists()


@pytest.mark.slow
def test_what_it_can_not_be_asked_for_is_said(cli, pretrained, unlabelled, pictures, tmp_path):
    for verb in (
        ("task=validate", f"data.root={pictures}"),
        ("task=predict", f"predict.input={pictures}"),
    ):
        said = cli(*verb, f"run={pretrained}", cwd=tmp_path, status=1).stderr
        assert "best.ckpt is of task=pretrain, and has no classes yet; train it first: ckpt=" in said
    for verb, message in (
        (("task=plan",), "is of task=pretrain, and task=plan predicts the steps of networks that classify"),
        (("task=serve",), "is of task=pretrain, whose network has no classes to answer with; train it"),
    ):
        assert message in cli(*verb, f"run={pretrained}", cwd=tmp_path, status=1).stderr.splitlines()[-1]
    assert (
        "is of task=pretrain, and goes on so; leave task= out"
        in cli("task=fit", f"run={pretrained}", cwd=tmp_path, status=1).stderr
    )
    mine = ("task=pretrain", "data=unlabelled", f"data.root={unlabelled}", *SMALL)
    for option, message in (
        ("compile=true", "task=pretrain: compile=true"),
        ("export=[torchscript]", "task=pretrain: export=... makes artifacts of networks that classify"),
        ("callbacks=default", "task=pretrain: callbacks=... is for networks that classify"),
        ("data.resolution=128", "data.resolution=128: task=pretrain takes images of 256 pixels or more"),
    ):
        assert message in cli(*mine, option, cwd=tmp_path, status=1).stderr
    said = cli("data=unlabelled", f"data.root={unlabelled}", cwd=tmp_path, status=1).stderr
    assert "has one class, unlabelled; it takes two" in said


@pytest.mark.parametrize(
    ("size", "crop_size", "refused"), [((200, 250), 256, True), ((200, 250), 128, False), ((300, 256), 256, False)]
)
def test_an_image_that_is_too_small_alone_is_said_before_training(size, crop_size, refused):
    with initialize_config_module("hct_lightning.conf", version_base="1.3"):
        cfg = compose("config", ["task=pretrain", "data=unlabelled", "data.resolution=native"])
    dataset = SimpleNamespace(size=(400, 500), source_sizes=[size, (400, 500)], reader=SimpleNamespace(varies=True))
    data = SimpleNamespace(dataset=dataset, augment=Augmentation(crop_size=crop_size, crops=4))
    with pytest.raises(ValueError, match="gives one crop of less than the 256 pixels") if refused else nullcontext():
        check_task(cfg, data)
