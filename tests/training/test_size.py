from functools import partial

import pytest
import timm
from torch import nn

from hct_lightning.models import HCT, FromPixels
from hct_lightning.training.size import network_size


def sized(network, size: tuple[int, int], channels: int = 3) -> dict[str, float | None]:
    statistics = [0.5] * channels
    return network_size(lambda: FromPixels(network(), statistics, statistics), channels=channels, size=size)


def test_hct_has_the_size_of_the_paper():
    assert sized(HCT, (4000, 4000)) == {"parameters": 1739092, "gmac": pytest.approx(19, abs=0.5)}


def test_networks_of_timm_have_the_size_that_timm_says():
    found = sized(partial(timm.create_model, "resnet18"), (224, 224))
    assert found == {"parameters": 11689512, "gmac": pytest.approx(1.82, abs=0.02)}


def test_a_network_that_looks_at_values_has_none():
    class Looks(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    assert sized(Looks, (64, 64)) == {"parameters": None, "gmac": None}
