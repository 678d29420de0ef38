"""The memory of a step, predicted without taking it."""

import pytest
import torch

from hct_lightning.models import HCT, FromPixels
from hct_lightning.parallel.memory import available_bytes, fewest_micro_batches, step_peak_bytes


def build() -> FromPixels:
    return FromPixels(HCT(), (0.5,) * 3, (0.2,) * 3)


def peak(batch: int, side: int = 1024, precision: str = "32-true") -> int:
    return step_peak_bytes(build, channels=3, size=(side, side), batch=batch, precision=precision)


def test_grows_with_images_pixels_and_precision():
    one, two, four = peak(1), peak(2), peak(4)
    assert four - two == pytest.approx(2 * (two - one), rel=0.1)
    weights = 1_739_092 * 4
    assert one > 4 * weights  # weights, gradients and two moments at least
    assert peak(1, side=512) < one / 2
    assert peak(2, precision="bf16-mixed") < 0.75 * two


def test_takes_no_memory_itself():
    free = available_bytes(torch.device("cpu"), 1)
    assert peak(64, side=4000) > 2 * free  # a step that no machine of this size could hold


def test_fewest_parts_that_fit():
    def linear(batch: int) -> int:
        return 100 + 50 * batch

    assert fewest_micro_batches(linear, 16, 10_000) == 1
    assert fewest_micro_batches(linear, 16, 600, reserve=0.0) == 2  # 10 fit: 100 + 500
    assert fewest_micro_batches(linear, 16, 150, reserve=0.0) == 16
    with pytest.raises(ValueError, match=r"one image takes about .* data\.resolution"):
        fewest_micro_batches(linear, 16, 149, reserve=0.0)


def test_available_memory_is_shared_by_the_ranks_of_a_machine():
    alone, shared = (available_bytes(torch.device("cpu"), n) for n in (1, 4))
    assert shared == pytest.approx(alone / 4, rel=0.1)
