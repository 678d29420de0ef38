"""What a source's images look like is found out once, and decides how they are read."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hct_lightning.data.catalogue import Catalogue, Split
from hct_lightning.data.dataset import Dataset, open_dataset
from hct_lightning.data.reading.image import UnreadableImageError
from hct_lightning.data.sources.store import store

DECODING = {"channels": None, "size": 32, "geometry": "cover", "max_pixels": 10**6}
OPTIONS = {"mean": None, "std": None, "statistics": "imagenet", "skips": False, "workers": 1}
PREPARED = Path(__file__).parents[1] / "formats" / "2026-11" / "store"


@pytest.fixture
def pictures(tmp_path) -> Catalogue:
    """Six grey images of two classes, of rising size, the last two to validate."""
    paths = [str(tmp_path / f"{i}.png") for i in range(6)]
    for i, path in enumerate(paths):
        Image.fromarray(np.full((40 + i, 50), 20 * i, np.uint8)).save(path)
    return Catalogue("pictures", ("a", "b"), Split(paths[:4], [0, 1, 0, 1]), Split(paths[4:], [0, 1]))


def opened(found: Catalogue, decoding: dict[str, Any] | None = None, **options: Any) -> Dataset:
    return open_dataset(found, decoding=DECODING | (decoding or {}), **(OPTIONS | options))


def test_files_say_their_channels_and_may_be_read_otherwise(pictures):
    dataset = opened(pictures)
    assert (dataset.decoding.channels, dataset.size) == (1, (32, 32))
    assert dataset.mean == pytest.approx([(0.485 + 0.456 + 0.406) / 3])
    assert (dataset.source_sizes[0], dataset.source_sizes[-1]) == ((40, 50), (45, 50))
    smaller = dataset.read_as(replace(dataset.decoding, size=(16, 24)))
    assert smaller.reader(pictures.train.paths[0]).shape == (1, 16, 24)
    assert dataset.reader(pictures.train.paths[0]).shape == (1, 32, 32)


def test_channels_are_what_most_images_have(pictures, tmp_path):
    """One odd file of four bands would else have had all others refused."""
    tifffile = pytest.importorskip("tifffile")
    odd = str(tmp_path / "odd.tif")
    tifffile.imwrite(odd, np.zeros((40, 50, 4), np.uint16), photometric="rgb", extrasamples=["unspecified"])
    train = Split([odd, *pictures.train.paths], [0, *pictures.train.labels])
    dataset = opened(replace(pictures, train=train))
    assert dataset.decoding.channels == 1
    [note] = dataset.summary()["notes"]
    assert note == "6 of the 7 images looked at have 1 channel(s), 1 have 4; data.channels decides otherwise"
    assert dataset.reader(pictures.train.paths[0]).shape == (1, 32, 32)
    with pytest.raises(UnreadableImageError, match=r"odd\.tif: it is a 16-bit TIFF of 4 bands where data\.channels=1"):
        dataset.reader(odd)


def test_colour_is_kept_where_half_of_the_images_have_it(pictures):
    for path in pictures.train.paths[:3]:
        Image.new("RGB", (50, 40)).save(path)
    assert opened(pictures).decoding.channels == 3


def test_a_geometry_that_pads_most_of_an_image_is_noted(pictures):
    assert not opened(pictures, {"geometry": "paper", "size": 20}).notes
    [note] = opened(pictures, {"geometry": "paper", "size": 128}).notes
    assert "data.geometry=paper pads more than half of 6 of the 6 images" in note


def test_a_window_is_asked_for_where_the_default_loses_the_image(pictures):
    for i, path in enumerate(pictures.train.paths + pictures.valid.paths):
        Image.fromarray(np.full((40, 50), 500 * (i + 1), np.uint16)).save(path)
    dataset = opened(pictures)
    assert dataset.summary()["notes"] == ("values are 500..2000 of 0..65535: give data.window=[500,2000]",)
    assert dataset.fitting_window == (500, 2000)
    assert not opened(pictures, {"window": [0, 65535]}).notes


def test_statistics_are_measured_where_they_are_asked_for(pictures):
    dataset = opened(pictures, statistics="data")
    assert dataset.mean == pytest.approx([30 / 255])  # 0, 20, 40 and 60: the training images alone
    assert opened(pictures, statistics="data", mean=[0.5], std=[0.25]).mean == (0.5,)


def test_an_unreadable_file_ends_the_run_or_is_noted(pictures):
    broken = pictures.train.paths[2]
    Path(broken).write_text("no image")
    with pytest.raises(UnreadableImageError, match=r"2\.png: not an image, but text"):
        opened(pictures)
    assert list(opened(pictures, skips=True).skipped) == [broken]
    for path in pictures.train.paths + pictures.valid.paths:
        Path(path).write_text("no image")
    with pytest.raises(
        ValueError, match=r"none of the 6 images looked at can be read; the first: .*0\.png: not an image, but text"
    ):
        opened(pictures, skips=True)


def test_a_store_knows_how_it_was_read(pictures):
    found = store(str(PREPARED), cache="unused")
    dataset = opened(found, {"size": None, "geometry": None})
    assert dataset.decoding == found.prepared.decoding
    with pytest.raises(ValueError, match=r"prepared with data\.geometry=cover, not paper"):
        opened(found, {"size": None, "geometry": "paper"})
    with pytest.raises(ValueError, match=r"prepared with data\.channels=3, not 1"):
        opened(found, {"size": None, "channels": 1})
    with pytest.raises(ValueError, match=r"prepared with data\.window=None, not"):
        opened(found, {"size": None, "window": [0, 100]})
    with pytest.raises(ValueError, match=r"data\.resolution and data\.geometry are null; only data=store"):
        opened(pictures, {"size": None})


def test_what_is_asked_of_a_store_counts_also_where_it_is_no(pictures):
    found = store(str(PREPARED), cache="unused")
    null = {"size": None, "geometry": None, "srgb": None, "breast": None, "window": None}
    assert opened(found, null).decoding.srgb
    with pytest.raises(ValueError, match=r"prepared with data\.srgb=True, not False"):
        opened(found, null | {"srgb": False})
    assert opened(pictures, {"srgb": None}).decoding.srgb is False


def test_what_is_too_small_for_its_own_size_is_said_before_training(pictures):
    large = Image.new("L", (150, 130))
    for path in (pictures.train.paths[1], pictures.valid.paths[1]):
        large.save(path)
    with pytest.raises(UnreadableImageError, match=r"0\.png: 50x40 pixels are too few .* data\.on_error=skip"):
        opened(pictures, {"size": "native"})
    found = opened(pictures, {"size": "native"}, skips=True)
    assert found.source_sizes == [(130, 150), (130, 150)]
    assert len(found.skipped) == 4
