"""An artifact of a small HCT with random weights."""

from pathlib import Path

import pytest
import torch

from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.deploy import export_artifact
from hct_lightning.deploy.runtimes import torchscript
from hct_lightning.models import HCT, FromPixels

pytest.importorskip("litserve")


@pytest.fixture(scope="session")
def artifact(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    network = FromPixels(HCT(blocks=(1, 1, 1, 1, 1)), [0.5] * 3, [0.2] * 3)
    network(torch.randint(0, 256, (4, 3, 128, 192), dtype=torch.uint8))  # running statistics
    decoding = Decoding(channels=3, size=(128, 192), geometry="cover", max_pixels=2**30)
    spec = {"classes": ["a", "b", "c", "d"], "decoding": decoding.as_json()}
    place = tmp_path_factory.mktemp("served")
    return export_artifact("torchscript", torchscript.export, network.eval(), place, spec=spec)
