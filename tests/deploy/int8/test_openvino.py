"""OpenVINO in int8. What its artifacts answer: tests/deploy/runtimes."""

import pytest
import torch
from torch import nn

from hct_lightning.deploy.int8.layers import sqnr_db
from hct_lightning.deploy.runtimes import openvino as runtime

int8 = pytest.importorskip("hct_lightning.deploy.int8.openvino")


class Tiny(nn.Module):
    """1 3 h w uint8 -> 1 4 logits, two convolutions and a linear."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, 2, 1)
        self.head = nn.Linear(32, 4)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        features = self.second(self.first(pixels.float() / 255).relu()).relu()
        return self.head(features.mean(dim=(2, 3)))


def test_the_chosen_layers_are_int8_and_the_answers_near(images, tmp_path):
    network = Tiny().eval()
    made = int8.export(network, images[0], tmp_path, dynamic=False, calibration=images, percent=100)
    assert (made.runtime, made.precision) == ("openvino", "int8")
    assert made.int8 == {"convolutions": 2, "linears": 1}
    served = runtime.load(tmp_path / made.file, {"precision": "int8"}, 1)
    with torch.inference_mode():
        assert sqnr_db(network(images[1]), served(images[1])) > 15
