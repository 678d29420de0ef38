"""The C++ program reads, crops and answers as Python does, and says what is wrong in one line."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hct_lightning import load_artifact
from hct_lightning.data import geometry
from hct_lightning.data.images import read_image
from hct_lightning.deploy import export_artifact, torchscript
from hct_lightning.deploy.build_cpp import build
from hct_lightning.network import build_network

SPEC = {
    "model": {"_target_": "hct_lightning.models.HCT"},
    "classes": ["a", "b", "c", "d"],
    "channels": 3,
    "resolution": [192, 256],
    "geometry": "cover",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "window": None,
}


@pytest.fixture(scope="session")
def program(tmp_path_factory) -> Path:
    try:
        return build(tmp_path_factory.mktemp("cpp"))
    except ImportError as error:
        if os.environ.get("HCT_CPP") == "required":
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = build_network(SPEC)
    network(torch.randint(0, 256, (4, 3, 192, 256), dtype=torch.uint8))  # running statistics
    return network.eval()


@pytest.fixture(scope="module")
def artifact(network, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("artifacts")
    return export_artifact("torchscript", torchscript.export, network, SPEC, place)


class _Pixels(torch.nn.Module):
    """Logits from which every pixel's value can be told: the image in a row."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1).float()


def run(program: Path, *args: object, **options: object) -> subprocess.CompletedProcess:
    return subprocess.run([program, *args], capture_output=True, text=True, timeout=60, **options)


def answer(program: Path, *args: object) -> dict:
    done = run(program, *args)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def python_answer(artifact: Path, image: Path) -> list[float]:
    pixels = read_image(image, SPEC["channels"], max_pixels=2**30)
    images = geometry.apply(pixels, tuple(SPEC["resolution"]), SPEC["geometry"])[None]
    return load_artifact(artifact)(images)[0].tolist()


@pytest.fixture(scope="module")
def picture(photos, tmp_path_factory) -> Image.Image:
    with Image.open(photos / "Plant" / "blue-periwinkle.jpg") as photo:
        return photo.resize((960, 640))


def saved(picture: Image.Image, path: Path, **options) -> Path:
    picture.save(path, **options)
    return path


def test_same_probabilities_as_python(program, artifact, picture, tmp_path):
    image = saved(picture, tmp_path / "x.png")
    found = answer(program, artifact, image)
    expected = python_answer(artifact, image)
    assert list(found["probabilities"]) == SPEC["classes"]
    assert list(found["probabilities"].values()) == pytest.approx(expected, abs=1e-4)
    assert found["class"] == SPEC["classes"][int(np.argmax(expected))]
    assert found["image"] == str(image)
