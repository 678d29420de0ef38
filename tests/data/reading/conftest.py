"""Files are written and read alike in the tests of every format."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.image import read_image


@pytest.fixture
def read() -> Callable[..., torch.Tensor]:
    """Reads a file as c h w uint8, whole unless options of `Decoding` say otherwise."""

    def read(path: Path | str, channels: int = 3, **options: Any) -> torch.Tensor:
        defaults = {"size": None, "geometry": "cover", "max_pixels": 2**24}
        return read_image(path, Decoding(channels=channels, **(defaults | options)))

    return read


@pytest.fixture
def store_values() -> Callable[..., Path]:
    """Writes a row of numbers as an image of their type."""

    def store(path: Path, values: list, dtype: type) -> Path:
        Image.fromarray(np.array([values], dtype)).save(path)
        return path

    return store
