"""Pillow opens files of any size, and keeps its warnings to itself."""

import warnings
from pathlib import Path

import pytest
from PIL import Image

from hct_lightning.data.reading.image import probe
from hct_lightning.data.reading.pillow import open_image


def test_a_large_file_is_opened_without_pillow_s_own_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # as in a fresh process, which has read no image yet
    Image.new("L", (50, 40)).save(tmp_path / "a.tif")
    assert probe(tmp_path / "a.tif", max_pixels=2000) == (1, 40, 50)


def test_damaged_tags_are_no_warning(tmp_path: Path):
    path = tmp_path / "a.tif"
    Image.new("L", (5, 4)).save(path, software="Nobody's")
    path.write_bytes(
        path.read_bytes().replace(b"\x31\x01\x02\x00\x09\x00\x00\x00", b"\x31\x01\x02\x00\x09\x00\x00\x7f")
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with open_image(path) as image:
            image.load()
    assert not caught
    with (
        pytest.warns(UserWarning, match="larger than file"),
        Image.open(path) as image,
    ):  # the file is one that Pillow warns about
        image.load()
