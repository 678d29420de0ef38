"""Data that the tests of several tasks take."""

from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def pictures(photos, tmp_path) -> Path:
    """Two classes of 8 small photographs each, in train/ and valid/."""
    for n, photo in enumerate(sorted(photos.rglob("*.jpg"))[:2]):
        with Image.open(photo) as image:
            image = image.resize((256, 192))
        for i in range(8):
            path = tmp_path / "pictures" / ("train" if i < 6 else "valid") / "ab"[n] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.rotate(3 * i).save(path)
    return tmp_path / "pictures"
