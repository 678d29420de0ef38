"""AOTInductor in int8, calibrated and trained further. What its artifacts answer: tests/deploy/runtimes."""

import pytest
import torch
from torch import nn

from hct_lightning.deploy.int8.layers import sqnr_db


@pytest.mark.slow
@pytest.mark.parametrize("qat_steps", [0, 3])
def test_every_layer_is_int8_and_the_answers_near(small, images, tmp_path, qat_steps):
    from hct_lightning.deploy.int8 import aoti  # torchao takes seconds to import

    options = {"percent": 100, "qat_steps": qat_steps, "qat_lr": 1e-4, "qat_batch": 2}
    made = aoti.export(small, images[0], tmp_path, dynamic=False, calibration=images, **options)
    assert (made.runtime, made.precision) == ("aoti", "int8")
    assert made.int8 == {"convolutions": 2, "linears": 1}
    package = torch._inductor.aoti_load_package(str(tmp_path / made.file))
    with torch.inference_mode():
        answer = package(images[1].contiguous(memory_format=torch.channels_last))
        assert sqnr_db(small(images[1]), answer) > 15


@pytest.mark.slow
@pytest.mark.parametrize("qat_steps", [0, 1])
def test_weights_for_raw_pixels_are_not_rounded_more_coarsely(small, images, tmp_path, qat_steps):
    """They are 255 times smaller, and so has to be their step."""
    from hct_lightning.deploy.int8 import aoti

    raw = nn.Sequential(_Floats(), nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)).eval()
    raw[1].load_state_dict({"weight": small.first.weight / 255, "bias": small.first.bias})
    options = {"percent": 100, "qat_steps": qat_steps, "qat_lr": 0.0, "qat_batch": 1}
    made = aoti.export(raw, images[0], tmp_path, dynamic=False, calibration=images, **options)
    package = torch._inductor.aoti_load_package(str(tmp_path / made.file))
    with torch.inference_mode():
        answer = package(images[1].contiguous(memory_format=torch.channels_last))
        assert sqnr_db(raw(images[1]), answer) > 30


class _Floats(nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.float()
