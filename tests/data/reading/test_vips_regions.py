"""Files that libvips reads by region."""

import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.image import UnreadableImageError
from hct_lightning.data.reading.regions import open_regions
from hct_lightning.data.reading.vips_regions import Strips, Tiles, open_with_vips

pyvips = pytest.importorskip("pyvips")

HOW = Decoding(channels=3, size=None, geometry="cover", max_pixels=2**30)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (600, 500, 3), np.uint8)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_strips_give_any_region_in_any_order(tmp_path, pixels, name):
    Image.fromarray(pixels).save(tmp_path / name)
    strips = open_with_vips(str(tmp_path / name), HOW)
    assert isinstance(strips, Strips)
    assert strips.shape == pixels.shape
    begun = []
    begin, strips._begin = strips._begin, lambda: begun.append(1) or begin()
    for y0, y1, x0, x1 in (
        *((0, 100, 0, 250), (0, 100, 240, 500), (90, 210, 0, 250), (90, 210, 200, 500)),  # as tiles come
        *((400, 401, 3, 4), (450, 600, 0, 500), (599, 600, 0, 500)),  # rows left out
    ):
        np.testing.assert_array_equal(strips[y0:y1, x0:x1], pixels[y0:y1, x0:x1])
    assert not begun
    np.testing.assert_array_equal(strips[5:50, 0:9], pixels[5:50, 0:9])
    assert begun == [1]


def test_tiles_are_entered_anywhere(tmp_path, pixels):
    image = pyvips.Image.new_from_array(pixels).copy(interpretation="srgb")
    image.tiffsave(str(tmp_path / "a.tif"), tile=True, tile_width=64, tile_height=64)
    tiles = open_with_vips(str(tmp_path / "a.tif"), HOW)
    assert isinstance(tiles, Tiles)
    np.testing.assert_array_equal(tiles[500:600, 100:200], pixels[500:600, 100:200])
    np.testing.assert_array_equal(tiles[0:30, 400:500], pixels[0:30, 400:500])


@pytest.mark.parametrize("name", ["a.png[page=1]", "b[1].png", os.fsdecode(b"\xff.png")])
def test_a_file_is_read_whatever_its_name(tmp_path, pixels, name):
    Image.fromarray(255 - pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / name, "png")
    found = open_regions(str(tmp_path / name), HOW).read(0, 9, 0, 9)
    np.testing.assert_array_equal(found, pixels[:9, :9])


def test_what_names_other_files_is_not_read(tmp_path):
    """Whatever it is called."""
    drawing = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="file:///etc/hostname"/></svg>'
    (tmp_path / "a.png").write_text(drawing)
    with pytest.raises(UnreadableImageError, match=r"a\.png: libvips can't read it"):
        open_regions(str(tmp_path / "a.png"), HOW)


def test_what_lies_at_a_url(tmp_path, pixels):
    image = pyvips.Image.new_from_array(pixels).copy(interpretation="srgb")
    image.tiffsave(str(tmp_path / "a.tif"), tile=True, tile_width=64, tile_height=64)
    Image.fromarray(pixels).save(tmp_path / "a.png")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        at = f"http://127.0.0.1:{server.server_port}"
        for name in ("a.tif", "a.png"):
            regions = open_regions(f"{at}/{name}", HOW)
            np.testing.assert_array_equal(regions.read(20, 300, 30, 400), pixels[20:300, 30:400])
        with pytest.raises(UnreadableImageError, match=r"none\.tif: it can't be opened"):
            open_regions(f"{at}/none.tif", HOW)
        server.shutdown()
