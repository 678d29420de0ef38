"""A network and images on which int8 is measured."""

import pytest
import torch

from hct_lightning.models import HCT, FromPixels


@pytest.fixture(scope="session")
def network() -> FromPixels:
    torch.manual_seed(0)
    network = FromPixels(HCT(), [0.5] * 3, [0.25] * 3)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # not the trivial statistics
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    network(torch.randint(0, 256, (4, 3, 128, 128), dtype=torch.uint8))
    return network.eval()


@pytest.fixture(scope="session")
def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 256, (1, 3, 128, 160), dtype=torch.uint8, generator=generator) for _ in range(3)]
