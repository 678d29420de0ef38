"""One place decides, and nothing of it is left at a third of the size."""

import numpy as np
import pytest

from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.image import read_image
from hct_lightning.data.sources.needles import PLACE, draw, needles


def stripes(image: np.ndarray) -> np.ndarray:
    """The place that decides: it alone is so bright."""
    rows, columns = ((image > 120).sum(axis=axis).nonzero()[0] for axis in (1, 0))
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


@pytest.mark.parametrize("index", range(6))
def test_one_place_of_64_px_has_stripes(index):
    place = stripes(draw(0, index, 500)).astype(int)
    assert abs(place.shape[0] - PLACE) <= 2
    assert abs(place.shape[1] - PLACE) <= 2
    across, along = (np.abs(np.diff(place, axis=axis)).mean() for axis in (0, 1))
    assert (across, along) == (0, pytest.approx(90, abs=25)) if index % 2 else (pytest.approx(90, abs=25), 0)


def test_a_third_of_the_size_has_the_place_and_no_stripes(tmp_path):
    """As the program reads it: whole stripes become one value, whatever their class."""
    found = needles(str(tmp_path), scene_size=600, scene_seed=0, train=8, valid=0)
    assert found.classes == ("across", "along")
    for path, label in zip(found.train.paths, found.train.labels, strict=True):
        image = read_image(path, Decoding(channels=1, size=(200, 200), geometry="cover", max_pixels=10**6))
        assert image.shape == (1, 200, 200)
        bright = (image[0] > 140).nonzero()
        top, left = (bright.amin(dim=0) + 3).tolist()
        inside = image[0, top : top + 14, left : left + 14].float()
        assert inside.mean().item() == pytest.approx(160, abs=3), label
        assert (inside - inside.mean()).abs().max() < 4, label


def test_small_and_large_images_look_alike():
    """So that what is learned on small ones, BatchNorm's statistics too, holds on large ones."""
    small, large = np.stack([draw(0, i, 384) for i in range(16)]), draw(0, 0, 1536)
    assert small.mean() == pytest.approx(large.mean(), abs=8)
    assert small.std() == pytest.approx(large.std(), abs=8)
