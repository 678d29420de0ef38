"""Images that stores are made of."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def images(tmp_path) -> Path:
    """24 images of two classes."""
    rng = np.random.default_rng(0)
    for i in range(24):
        path = tmp_path / "images" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (300, 400, 3), np.uint8)).save(path)
    return tmp_path / "images"
