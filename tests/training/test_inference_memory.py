"""As many images at a time as the memory holds, when a network only answers."""

from collections.abc import Callable

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from hct_lightning.training.inference_memory import images_at_a_time, inference_bytes

SIDE = 1024


@pytest.fixture(scope="module")
def one(build) -> int:
    return inference_bytes(build, channels=3, size=(SIDE, SIDE), precision="32-true")


@pytest.fixture
def at_a_time(build, one, monkeypatch) -> Callable[..., int]:
    """Of eight images, with so many bytes available (the estimate is real, but made once)."""

    def at_a_time(available: float, **options) -> int:
        module = "hct_lightning.training.inference_memory"
        monkeypatch.setattr(f"{module}.available_bytes", lambda *_: int(available))
        monkeypatch.setattr(f"{module}.inference_bytes", lambda *_, **__: one)
        options = {"batch_size": 8, "micro_batches": "auto", "precision": "32-true"} | options
        return images_at_a_time(
            torch.device("cpu"), ranks_here=1, build=build, channels=3, size=(SIDE, SIDE), **options
        )

    return at_a_time


def test_answering_takes_less_than_a_training_step(one, peak):
    assert 12 * SIDE * SIDE < one < peak(1) / 1.5  # the image as floats, at least


def test_what_is_alive_is_what_torch_counts(build, one):
    """Against torch's own tracker, which is slower."""
    network = build().to(memory_format=torch.channels_last).eval()
    with FakeTensorMode() as fake, torch.no_grad():
        network._apply(fake.from_tensor)
        tracker = MemTracker()
        tracker.track_external(network)
        with tracker:
            network(torch.empty((1, SIDE, SIDE, 3), dtype=torch.uint8).permute(0, 3, 1, 2))
    assert one == max(sizes["Total"] for sizes in tracker.get_tracker_snapshot("peak").values())


def test_what_fits_goes_through_at_a_time(at_a_time, one):
    assert at_a_time(1e12) == 8
    assert at_a_time(6.5 * one) == 3
    assert at_a_time(1.5 * one) == 1
    with pytest.raises(ValueError, match=r"an image of 1024x1024 takes about .* fewer trainer\.devices"):
        at_a_time(0.9 * one)


def test_a_number_that_is_given_is_kept(at_a_time):
    assert at_a_time(0, micro_batches=4) == 2
    assert at_a_time(0, micro_batches=16) == 1
