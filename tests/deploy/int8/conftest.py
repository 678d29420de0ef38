"""Networks and images on which int8 is measured."""

import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from hct_lightning.models import HCT, FromPixels


class Small(nn.Module):
    """1 3 h w uint8 -> 1 4 logits by two convolutions and a linear."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, 2, 1)
        self.head = nn.Linear(32, 4)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        features = self.second(self.first(pixels.float() / 255).relu()).relu()
        return self.head(features.mean(dim=(2, 3)))


@pytest.fixture
def small() -> Small:
    """What compiles in seconds."""
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture(scope="session")
def network() -> FromPixels:
    torch.manual_seed(0)
    network = FromPixels(HCT(), [0.5] * 3, [0.25] * 3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # not the trivial statistics
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    network(torch.randint(0, 256, (4, 3, 128, 128), dtype=torch.uint8))
    return network.eval()


@pytest.fixture(scope="session")
def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 256, (1, 3, 128, 160), dtype=torch.uint8, generator=generator) for _ in range(3)]


class Streamed:
    """Images that are read anew each time; knows the most that were in memory at once, and how often it was asked."""

    def __init__(self, images: list[Tensor]) -> None:
        self.images = images
        self.alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
        self.most = self.passes = 0

    def __iter__(self) -> Iterator[Tensor]:
        self.passes += 1
        for image in self.images:
            read = image.clone()
            self.alive.add(read)
            self.most = max(self.most, len(self.alive))
            yield read


@pytest.fixture
def streamed(images) -> Streamed:
    """Twelve images."""
    return Streamed([image.roll(shift) for shift in range(4) for image in images])
