"""What is asked for, on images in memory and on those that are read by region."""

import pytest
import torch

from hct_lightning.explain.methods import Methods
from hct_lightning.explain.streamed import StreamedMaps
from hct_lightning.models.streaming import InMemory, StreamedHCT

OPTIONS = {
    "method": ["occlusion", "gradient", "attention"],
    "layer": None,
    "tile": 128,
    "batch_size": 1,
    "receptive_field": False,
}


def made(network, **options) -> Methods:
    return Methods(network, OPTIONS | options, (0.5,) * 3, "this one")


def stream(network, source) -> StreamedMaps:
    return StreamedMaps(StreamedHCT(network, tile=96), source)


def test_an_image_by_region_has_all_but_occlusion(hct, pixels):
    network = hct()
    methods = made(network)
    whole, streamed = (methods.look(network, image, stream) for image in (pixels, InMemory(pixels[0])))
    torch.testing.assert_close(whole.logits, streamed.logits, rtol=0, atol=1e-4)
    assert list(whole.maps) == ["occlusion", "gradient", "attention"]
    assert list(streamed.maps) == ["gradient", "attention"]
    for name, method in streamed.maps.items():
        torch.testing.assert_close(method(1).values, whole.maps[name](1).values, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match=r"explain\.method=occlusion would stream the image once for each"):
        made(network, method="occlusion").look(network, InMemory(pixels[0]), stream)


def test_the_cnn_twin_leaves_attention_out(hct):
    assert made(hct(conv_stages=5)).names == ("occlusion", "gradient")
    with pytest.raises(ValueError, match="leaves nothing to do with this one"):
        made(hct(conv_stages=5), method=["attention"])
