"""Overlays: the map lies where it belongs, the image keeps its pixels, the legend says what colours mean."""

import numpy as np
import pytest
import torch
from PIL import Image

from hct_lightning.explain.maps import Map
from hct_lightning.explain.overlay import COLOURS, check_look, overlay, palette, save_overlay, with_legend

BRIGHT = Map(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 8.0]]), "lost from the score")


def test_the_brightest_cell_is_where_the_map_has_it():
    picture = torch.zeros(3, 200, 300, dtype=torch.uint8)
    image = np.asarray(overlay(picture, BRIGHT, colours="inferno", alpha=0.5)).astype(int)
    assert image.shape == (200, 300, 3)
    row, column = np.unravel_index(image.sum(axis=2).argmax(), (200, 300))
    assert row >= 140
    assert column >= 240
    assert image[150, 250].tolist() == pytest.approx((palette("inferno")[255] / 2).tolist(), abs=12)
    assert image[20, 20].tolist() == pytest.approx((palette("inferno")[0] / 2).tolist(), abs=2)


@pytest.mark.parametrize("colours", COLOURS)
def test_equal_steps_look_equal(colours):
    """The lightness of CIELAB grows evenly."""
    linear = (lambda c: np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4))(palette(colours) / 255)
    y = linear @ [0.2126, 0.7152, 0.0722]
    lightness = np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y)
    assert (np.diff(lightness[::8]) > 0).all()


def test_below_the_picture_stands_the_legend_and_above_nothing_has_moved():
    image = overlay(torch.randint(0, 256, (3, 90, 400), dtype=torch.uint8), BRIGHT, colours="magma", alpha=0.3)
    framed = with_legend(image, BRIGHT, "occlusion: cat", colours="magma")
    assert framed.width == 400
    assert framed.height > 100
    assert np.array_equal(np.asarray(framed)[:90], np.asarray(image))
    strip = np.asarray(framed)[90:]
    assert (strip.max(axis=2) < 120).any(), "there are letters"
    assert (strip == palette("magma")[255]).all(axis=2).any(), "and colours"


def test_three_files_of_each(tmp_path):
    picture = torch.randint(0, 256, (3, 700, 1100), dtype=torch.uint8)
    save_overlay(tmp_path / "gradient", picture, BRIGHT, "a", colours="viridis", alpha=0.5)
    with Image.open(tmp_path / "gradient.png") as full, Image.open(tmp_path / "gradient.jpg") as small:
        assert full.width == 1100
        assert full.height > 700
        assert small.width == 512
    assert np.array_equal(np.load(tmp_path / "gradient.npy"), BRIGHT.values.numpy())


def test_looks_that_say_nothing_are_refused():
    check_look("viridis", 0.5)
    with pytest.raises(ValueError, match=r"explain\.colours=jet: choose one of viridis"):
        check_look("jet", 0.5)
    for alpha in (0, 1, 2):
        with pytest.raises(ValueError, match=rf"explain\.alpha={alpha}: give a number between"):
            check_look("viridis", alpha)
