"""What a network is and eats, saved and fed back."""

import socket
import time
from typing import Any

import pytest

from hct_lightning.data.datamodule import ImageData
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.training.spec import NetworkSpec, build_network


def test_options_are_fed_back_to_the_data_as_they_were(data_options):
    decoding = Decoding(channels=3, size=(48, 64), geometry="paper", max_pixels=10**6, srgb=True, reduce_to=8)
    spec = NetworkSpec(model={}, classes=("x", "y"), decoding=decoding, mean=(0.5,) * 3, std=(0.2,) * 3)
    data = ImageData(lambda: None, **data_options("store", **spec.options(), max_pixels=10**6))
    assert data.decoding == vars(decoding) | {"breast": None}  # null: not asked for


def test_weights_are_fetched_for_a_beginning_and_never_again(tmp_path, monkeypatch):
    """As on a machine without internet, and with an empty cache."""
    asked = []

    def no_internet(host: str, *_: Any, **__: Any) -> None:
        asked.append(host)
        raise OSError("no internet")

    monkeypatch.setattr(socket, "getaddrinfo", no_internet)
    model = {"_target_": "timm.create_model", "model_name": "test_convnext", "pretrained": True}
    spec = NetworkSpec(
        model=model | {"cache_dir": str(tmp_path)},
        classes=("x", "y"),
        decoding=Decoding(channels=3, size=(32, 32), geometry="cover", max_pixels=10**6),
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
    )
    spec.build()
    assert not asked
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"model\.pretrained=True: the weights of test_convnext can't be had") as error:
        spec.build(pretrained=True)
    assert "\n" not in str(error.value)
    assert asked
    assert time.monotonic() - began < 15, "the hub's own client tries for 45 seconds"


@pytest.mark.parametrize("name", ["hf-hub:timm/resnet18.a1_in1k", "local-dir:/tmp/x"])
def test_a_network_that_is_described_elsewhere_is_refused(name):
    """Reading a checkpoint would else depend on the internet, or on this machine."""
    model = {"_target_": "timm.create_model", "model_name": name}
    with pytest.raises(ValueError, match=f"model_name={name}: a checkpoint has to say by itself what its network is"):
        build_network(model, channels=3, classes=2, mean=(0.5,) * 3, std=(0.5,) * 3)
