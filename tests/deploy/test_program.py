"""The exported program takes one size, or all that are multiples of 32."""

import pytest
import torch
from torch import nn

from hct_lightning.deploy.program import program


class Tiny(nn.Module):
    """Half the sides twice and average, as HCT does: b 3 h w uint8 -> b 4."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 4, 3, 2, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.layers(pixels.float() / 255).mean(dim=(2, 3))


def images(height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)


def test_open_sides_take_other_multiples_of_32_and_give_the_networks_answers():
    network = Tiny().eval()
    opened = program(network, images(128, 160), dynamic=True).module()
    for size in ((128, 160), (192, 128), (512, 256)):
        x = images(*size)
        torch.testing.assert_close(opened(x), network(x))
    fixed = program(network, images(100, 130), dynamic=False).module()
    assert fixed(images(100, 130)).shape == (1, 4)
    with pytest.raises(AssertionError, match="130"):
        fixed(images(100, 160))


def test_a_size_that_can_not_be_opened_is_refused():
    with pytest.raises(ValueError, match="takes a run at multiples of 32 pixels, not at 128x130"):
        program(Tiny().eval(), images(128, 130), dynamic=True)
