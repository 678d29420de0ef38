"""Maps of an image that is read by region are those of the image in memory."""

import pytest
import torch

from hct_lightning.explain.attention import attention_map
from hct_lightning.explain.gradient import gradient_map
from hct_lightning.explain.streamed import StreamedMaps
from hct_lightning.models import streaming
from hct_lightning.models.streaming import InMemory, StreamedHCT


@pytest.mark.parametrize(
    ("options", "layer"),
    [
        ({}, "stages.2"),
        ({"kernel": "softmax"}, "stages.2"),
        ({"conv_stages": 2}, "stages.2"),  # behind a stage that attends
        ({"conv_stages": 5}, "stages.4"),
    ],
)
def test_they_are_those_of_the_whole(hct, pixels, monkeypatch, options, layer):
    monkeypatch.setattr(streaming, "VALUES_AT_ONCE", 1280)  # several parts
    network, done = hct(**options), []
    maps = StreamedMaps(StreamedHCT(network, tile=96), InMemory(pixels[0]), lambda *numbers: done.append(numbers))
    assert done[-1] == (9, 9)
    with torch.inference_mode():
        torch.testing.assert_close(maps.logits, network(pixels)[0], rtol=0, atol=1e-4)
    whole = gradient_map(network, pixels, 1, layer=layer)
    found = maps.gradient(1, layer)
    assert found.unit == whole.unit
    torch.testing.assert_close(found.values, whole.values, rtol=1e-3, atol=1e-5)
    if options.get("conv_stages") != 5:
        exact = attention_map(network, pixels, 0).values
        torch.testing.assert_close(maps.attention(0).values, exact, rtol=1e-3, atol=1e-4)


def test_layers_within_the_tiles_are_refused(hct, pixels):
    maps = StreamedMaps(StreamedHCT(hct()), InMemory(pixels[0]))
    with pytest.raises(ValueError, match=r"explain\.layer=stages\.1: .* choose one of stages\.2, stages\.3, stages\.4"):
        maps.gradient(0, "stages.1")
