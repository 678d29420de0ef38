"""An artifact is made whole, or not at all."""

import json
import shutil

import pytest
import torch

from hct_lightning.deploy import export_artifact, load_artifact
from hct_lightning.deploy.artifact import read_descriptions
from hct_lightning.deploy.export import Reference, choose_exporters
from hct_lightning.deploy.runtimes import torchscript


def test_description_says_what_a_server_needs(folder):
    description = json.loads((folder / "artifact.json").read_text())
    assert description["runtime"] == "torchscript"
    assert description["precision"] == "fp32"
    assert description["classes"] == ["a", "b", "c", "d"]
    assert description["input"]["min"] == description["input"]["max"] == [192, 256]
    assert description["size_bytes"] == (folder / description["file"]).stat().st_size


def test_exporters_are_told_from_options():
    options = {"dynamic": False, "calibration": 64, "evaluation": 0, "log": True, "license": None}
    assert choose_exporters(options | {"torchscript": torchscript.export}) == {"torchscript": torchscript.export}


@pytest.mark.parametrize(
    ("name", "value", "fix"),
    [
        ("dynamic", 7, "true or false"),
        ("log", None, "true or false"),
        ("calibration", 0, "a number of images, 1 or more"),
        ("calibration", None, "a number of images, 1 or more"),
        ("evaluation", "abc", "a number of images, 0 or more"),
        ("evaluation", True, "a number of images, 0 or more"),
        ("evaluation", 0.5, "a number of images, 0 or more"),
    ],
)
def test_a_wrong_option_is_named_before_training(name, value, fix):
    options = {"dynamic": False, "calibration": 64, "evaluation": 200, "log": True, name: value}
    with pytest.raises(ValueError, match=rf"^export\.{name}={value}: give {fix}$"):
        choose_exporters(options)


def test_a_failed_export_leaves_the_earlier_artifact(network, folder, tmp_path, about):
    def broken(network, example, making, *, dynamic):
        torchscript.export(network, example, making, dynamic=dynamic)
        raise RuntimeError("disk on fire")

    place = tmp_path / "artifacts"
    shutil.copytree(folder, place / "torchscript")
    with pytest.raises(RuntimeError, match="on fire"):
        export_artifact("torchscript", broken, network, place, **about)
    assert [p.name for p in place.iterdir()] == ["torchscript"]
    load_artifact(place / "torchscript")


def test_an_export_that_gives_other_answers_is_refused(network, untrained, tmp_path, about):
    def other(network, example, making, *, dynamic):
        torch.manual_seed(1)
        return torchscript.export(untrained(), example, making, dynamic=dynamic)

    with pytest.raises(RuntimeError, match="differs from the network"):
        export_artifact("torchscript", other, network, tmp_path, **about)
    assert not list(tmp_path.iterdir())


def test_images_that_are_skipped_are_not_judged(network, folder):
    """They are black: data.on_error=skip."""
    images = torch.randint(0, 256, (3, 1, 3, 192, 256), dtype=torch.uint8)
    label = network(images[0]).argmax(dim=1)
    batches = [(images[0], label, torch.tensor([0])), (images[1], 3 - label, torch.tensor([-2]))]
    judged = Reference(network, batches)
    assert judged.logits.shape == (1, 4)
    found = judged.compare(load_artifact(folder))
    assert (found["images"], found["accuracy_fp32"], found["accuracy"]) == (1, 1.0, 1.0)


def test_no_image_to_judge_on_is_said(network):
    batches = [(torch.zeros(1, 3, 192, 256, dtype=torch.uint8), torch.tensor([0]), torch.tensor([-2]))]
    with pytest.raises(ValueError, match=r"none of the validation images .* can be read; .* export\.evaluation=0"):
        Reference(network, batches)


def test_what_is_left_of_an_export_that_was_killed_is_no_artifact(folder, tmp_path):
    for name in (".torchscript.tmp", ".torchscript.old", "torchscript"):
        shutil.copytree(folder, tmp_path / name)
    assert list(read_descriptions(tmp_path)) == ["torchscript"]
