"""Asks the C++ program, and Python for the same."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import torch

from hct_lightning.data.reading import geometry
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.image import read_image
from hct_lightning.deploy import export_artifact
from hct_lightning.deploy.runtimes import torchscript

CLASSES = ["a", "b", "c", "d"]


def decoding(size: tuple[int, int] = (192, 256), **other: object) -> Decoding:
    return Decoding(**{"channels": 3, "size": size, "geometry": "cover", "max_pixels": 2**30} | other)


class Pixels(torch.nn.Module):
    """A class for every value of the input: a value off by one moves its probability by 2 %."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1).float() / 50


def pixels_artifact(place: Path, size: tuple[int, int], **other: object) -> Path:
    how = decoding(size, **other)
    classes = [f"{i:05d}" for i in range(how.channels * size[0] * size[1])]
    return export_artifact(
        "pixels", torchscript.export, Pixels(), place, spec={"classes": classes, "decoding": how.as_json()}
    )


def run(program: Path, *args: object, **options: object) -> subprocess.CompletedProcess:
    return subprocess.run([program, *args], capture_output=True, text=True, timeout=60, **options)


def answer(program: Path, *args: object) -> dict:
    done = run(program, *args)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def seen(program: Path, artifact: Path, image: Path) -> torch.Tensor:
    """The pixels that the program fed to a `Pixels` artifact, relative to their mean."""
    found = answer(program, artifact, image)
    return (torch.tensor(list(found["probabilities"].values())).log() * 50).round()


def expected(image: Path, size: tuple[int, int], **other: object) -> torch.Tensor:
    """The pixels as Python reads them: whole, then brought to size, so that nothing is reduced while it is decoded."""
    how = decoding(size, **other)
    whole = read_image(image, replace(how, size=None, reduce_to=None))
    sized = geometry.apply(whole, size, how.geometry)
    return geometry.coarsen(sized, how.reduce_to).flatten().float()


def assert_same_pixels(found: torch.Tensor, wanted: torch.Tensor, atol: int = 0) -> None:
    shift = (found - wanted).median()
    torch.testing.assert_close(found - shift, wanted, rtol=0, atol=atol)


def changed(artifact: Path, place: Path, **fields: object) -> Path:
    other = shutil.copytree(artifact, place)
    description = json.loads((other / "artifact.json").read_text())
    (other / "artifact.json").write_text(json.dumps(description | fields))
    return other
