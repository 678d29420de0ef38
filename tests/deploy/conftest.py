"""An untrained network and its artifacts in TorchScript; the C++ program and a picture for it."""

import fcntl
import importlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.deploy import export_artifact
from hct_lightning.deploy.build_cpp import build
from hct_lightning.deploy.int8.torchscript import export_static
from hct_lightning.deploy.runtimes import torchscript
from hct_lightning.models import HCT, FromPixels


@pytest.fixture(scope="session")
def about() -> dict[str, Any]:
    """What the artifacts say of their network."""
    decoding = Decoding(channels=3, size=(192, 256), geometry="cover", max_pixels=2**30)
    return {"spec": {"classes": ["a", "b", "c", "d"], "decoding": decoding.as_json()}}


@pytest.fixture(scope="session")
def untrained() -> Callable[[], FromPixels]:
    return lambda: FromPixels(HCT(), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.fixture(scope="session")
def network(untrained) -> FromPixels:
    torch.manual_seed(0)
    network = untrained()
    network(torch.randint(0, 256, (4, 3, 192, 256), dtype=torch.uint8))  # running statistics
    return network.eval()


@pytest.fixture(scope="session")
def folder(network, about, tmp_path_factory) -> Path:
    """The artifact of one size."""
    place = tmp_path_factory.mktemp("artifacts")
    return export_artifact("torchscript", torchscript.export, network, place, **about)


@pytest.fixture(scope="session")
def open_folder(network, about, tmp_path_factory) -> Path:
    """The artifact that takes any size."""
    place = tmp_path_factory.mktemp("open")
    return export_artifact("torchscript", torchscript.export, network, place, **about, dynamic=True)


@pytest.fixture(scope="session")
def int8_folder(network, about, tmp_path_factory) -> Path:
    """The artifact of one size in int8."""
    place = tmp_path_factory.mktemp("int8")
    exporter = partial(export_static, percent=100)
    images = torch.randint(0, 256, (1, 3, 192, 256), dtype=torch.uint8)
    return export_artifact("torchscript_int8", exporter, network, place, **about, calibration=[images])


@pytest.fixture(scope="session")
def program(tmp_path_factory) -> Path:
    """Built once, whichever of pytest's workers comes first: it takes a minute."""
    of_worker = tmp_path_factory.getbasetemp()
    folder = (of_worker.parent if "PYTEST_XDIST_WORKER" in os.environ else of_worker) / "cpp"
    folder.mkdir(exist_ok=True)
    try:
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return build(folder)
    except ImportError as error:
        if os.environ.get("HCT_CPP") == "required":
            raise
        pytest.skip(str(error))


def exporter(name: str) -> Callable[..., Any]:
    if name == "openvino_int8":
        from hct_lightning.deploy.int8 import openvino  # NNCF takes seconds to import

        return lambda network, example, folder, *, dynamic: openvino.export(
            network, example, folder, dynamic=dynamic, calibration=[example], percent=100
        )
    export = importlib.import_module(f"hct_lightning.deploy.runtimes.{name}").export
    return export if name == "torchscript" else partial(export, precision="fp32")


@pytest.fixture(scope="session")
def export(untrained, about, tmp_path_factory) -> Callable[[str], Path]:
    """Makes the artifact of a runtime from one network, once."""
    torch.manual_seed(0)
    network = untrained()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # one batch sets the statistics, so that the answers are mixed
    network(torch.randint(0, 256, (4, 3, 192, 256), dtype=torch.uint8))
    network.eval()
    place = tmp_path_factory.mktemp("by_runtime")

    def make(name: str) -> Path:
        if (place / name).exists():
            return place / name
        return export_artifact(name, exporter(name), network, place, **about)

    return make


@pytest.fixture(scope="module")
def picture(photos) -> Image.Image:
    with Image.open(photos / "Plant" / "blue-periwinkle.jpg") as photo:
        return photo.resize((420, 280))
