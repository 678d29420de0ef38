"""Grey and colour become each other; other bands must be those asked for."""

import numpy as np
import pytest
from PIL import Image

from hct_lightning.data.reading.channels import to_channels
from hct_lightning.data.reading.regions import Regions


def test_grey_and_colour_become_each_other():
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    assert np.array_equal(to_channels(grey, 3, "grey"), np.concatenate([grey] * 3, axis=2))
    assert np.array_equal(to_channels(np.concatenate([grey] * 3, axis=2), 1, "RGB"), grey)
    red = np.zeros((1, 1, 3), np.uint8)
    red[..., 0] = 200
    assert to_channels(red, 1, "RGB").tolist() == [[[60]]]  # 0.299 of it


def test_grey_is_that_of_pillow_whoever_reads_it():
    """Also where the exact value lies at a half, and rounding could go either way."""
    pixels = np.random.default_rng(0).integers(0, 256, (500, 500, 3), np.uint8)
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    assert np.array_equal(to_channels(pixels, 1, "RGB")[..., 0], grey)
    assert np.array_equal(Regions(pixels, 1, None).read(0, 500, 0, 500)[..., 0], grey)


@pytest.mark.parametrize(("bands", "channels"), [(4, 3), (6, 1), (3, 4), (1, 2)])
def test_other_bands_are_refused_with_what_the_file_is(bands, channels):
    with pytest.raises(ValueError, match=rf"it is a map where data\.channels={channels}"):
        to_channels(np.zeros((2, 2, bands), np.uint8), channels, "a map")
