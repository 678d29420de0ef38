"""AOTInductor in int8, calibrated and trained further. What its artifacts answer: tests/deploy/runtimes."""

import pytest
import torch
from torch import nn

from hct_lightning.deploy.int8 import aoti
from hct_lightning.deploy.int8.layers import sqnr_db


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


@pytest.mark.slow
@pytest.mark.parametrize("qat_steps", [0, 3])
def test_every_layer_is_int8_and_the_answers_near(images, tmp_path, qat_steps):
    network = Tiny().eval()
    options = {"percent": 100, "qat_steps": qat_steps, "qat_lr": 1e-4, "qat_batch": 2}
    made = aoti.export(network, images[0], tmp_path, dynamic=False, calibration=images, **options)
    assert (made.runtime, made.precision) == ("aoti", "int8")
    assert made.int8 == {"convolutions": 2, "linears": 1}
    package = torch._inductor.aoti_load_package(str(tmp_path / made.file))
    with torch.inference_mode():
        answer = package(images[1].contiguous(memory_format=torch.channels_last))
        assert sqnr_db(network(images[1]), answer) > 15
