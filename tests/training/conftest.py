"""The estimate of a step's memory takes seconds: each is made once."""

import functools
from collections.abc import Callable

import pytest

from hct_lightning.models import HCT, FromPixels
from hct_lightning.training.memory import Memory, StepMemory, step_memory


@pytest.fixture(scope="session")
def build() -> Callable[[], FromPixels]:
    return lambda: FromPixels(HCT(), (0.5,) * 3, (0.2,) * 3)


@pytest.fixture(scope="session")
def remembered() -> Callable[..., StepMemory]:
    """`step_memory` that estimates nothing twice."""
    return functools.cache(step_memory)


@pytest.fixture(scope="session")
def step(build, remembered) -> Callable[..., StepMemory]:
    """The memory of a step of HCT with so many images."""

    def step(batch: int, side: int = 1024, precision: str = "32-true", memory: Memory = "speed") -> StepMemory:
        return remembered(build, channels=3, size=(side, side), batch=batch, precision=precision, memory=memory)

    return step


@pytest.fixture(scope="session")
def peak(step) -> Callable[..., int]:
    """The bytes of its tensors."""
    return lambda *args, **options: step(*args, **options).tensors
