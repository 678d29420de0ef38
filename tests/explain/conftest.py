"""Networks that are small enough to look into."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hct_lightning.models import HCT, FromPixels


@pytest.fixture
def hct() -> Callable[..., FromPixels]:
    """`hct(conv_stages=5)`: HCT with random weights."""

    def build(**options) -> FromPixels:
        torch.manual_seed(0)
        network = FromPixels(HCT(**options), (0.5,) * 3, (0.25,) * 3)
        return network.to(memory_format=torch.channels_last).eval().requires_grad_(False)

    return build


@pytest.fixture
def pixels() -> Tensor:
    torch.manual_seed(1)
    return torch.randint(0, 256, (1, 224, 288, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
