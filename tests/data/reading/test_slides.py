"""Whole slides, read by openslide: here TIFFs under the names of slides."""

import numpy as np
import pytest

from hct_lightning.data.catalogue import Catalogue, Split
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.image import UnreadableImageError, is_image, probe, read_image
from hct_lightning.data.reading.readers import NativeReader
from hct_lightning.data.reading.regions import open_regions
from hct_lightning.data.reading.slides import is_slide
from hct_lightning.data.survey import survey

pyvips = pytest.importorskip("pyvips")
pytest.importorskip("openslide")

HOW = Decoding(channels=3, size=None, geometry="cover", max_pixels=2**30)


@pytest.fixture
def slide(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (700, 900, 3), np.uint8)
    image = pyvips.Image.new_from_array(pixels).copy(interpretation="srgb")
    image.tiffsave(str(tmp_path / "a.svs"), tile=True, tile_width=128, tile_height=128, pyramid=True)
    return tmp_path / "a.svs", pixels


def test_regions_of_the_largest_level(slide):
    path, pixels = slide
    assert is_slide(path)
    assert is_image(path)
    regions = open_regions(path, HOW)
    assert regions.shape == pixels.shape
    np.testing.assert_array_equal(regions.read(100, 600, 50, 777), pixels[100:600, 50:777])
    assert probe(path, max_pixels=2**30) == (3, 700, 900)


def test_what_it_is_not_read_as(slide, tmp_path):
    with pytest.raises(
        UnreadableImageError, match=r"a\.svs: a whole slide is read by region: data\.resolution=native$"
    ):
        read_image(slide[0], HOW)
    (tmp_path / "b.mrxs").write_text("no slide")
    with pytest.raises(UnreadableImageError, match=r"b\.mrxs: openslide can't read it"):
        open_regions(tmp_path / "b.mrxs", HOW)
    with pytest.raises(UnreadableImageError, match="there is no such file"):
        open_regions(tmp_path / "c.svs", HOW)


def test_a_survey_says_that_it_does_not_look_at_slides(slide):
    path, _ = slide
    found = Catalogue("slides", ("a",), Split([str(path)], [0]), Split([], []))
    with pytest.raises(ValueError, match=r"a\.svs: it is read by region, and task=inspect looks at whole images"):
        survey(found, NativeReader(HOW), max_pixels=2**30, workers=1, progress=lambda items, _: items)
