"""Regions hold the pixels that the whole image has there."""

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.image import UnreadableImageError, read_image
from hct_lightning.data.reading.regions import Regions, Turned, open_regions

pyvips = pytest.importorskip("pyvips")


def decoding(**options):
    return Decoding(**{"channels": 3, "size": None, "geometry": "cover", "max_pixels": 2**30} | options)


def check(path, how, tolerance=0):
    expected = read_image(path, how).permute(1, 2, 0).numpy().astype(int)
    regions = open_regions(path, how)
    assert regions.shape == expected.shape
    h, w, _ = regions.shape
    for y0, y1, x0, x1 in ((0, h, 0, w), (0, 1, 0, 1), (h - 7, h, w - 9, w), (h // 3, h // 2, w // 5, w // 2)):
        given = regions.read(y0, y1, x0, x1)
        assert given.dtype == np.uint8
        assert np.abs(given - expected[y0:y1, x0:x1]).max() <= tolerance


@pytest.fixture(scope="module")
def photo(photos):
    with Image.open(photos / "Plant" / "blue-periwinkle.jpg") as image:
        return image.convert("RGB").resize((331, 277))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("name", "options", "mode"),
    [
        ("a.png", {}, "RGB"),
        ("a.png", {}, "RGBA"),
        ("a.png", {}, "L"),
        ("a.png", {}, "LA"),
        ("a.tif", {}, "RGB"),
        ("a.tif", {"compression": "jpeg"}, "RGB"),
        ("a.jpg", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"}, "RGB"),
        ("a.webp", {"lossless": True}, "RGB"),
    ],
)
def test_the_same_pixels_as_the_whole(tmp_path, photo, name, options, mode, channels):
    photo.convert(mode).save(tmp_path / name, **options)
    check(tmp_path / name, decoding(channels=channels), tolerance=0 if name[-3:] in ("png", "ebp") else 2)


def test_a_pyramid_in_tiles(tmp_path, photo):
    image = pyvips.Image.new_from_array(np.array(photo)).copy(interpretation="srgb")
    image.tiffsave(str(tmp_path / "a.tif"), tile=True, pyramid=True, compression="deflate")
    check(tmp_path / "a.tif", decoding())


def test_windows_and_bands(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 4000, (90, 120, 5), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, tile=(32, 32), photometric="minisblack", planarconfig="contig")
    check(tmp_path / "a.tif", decoding(channels=5, window=(0, 4000)))
    np.save(tmp_path / "a.npy", values[..., 0])
    given = open_regions(tmp_path / "a.npy", decoding(channels=1, window=(100, 3000))).read(3, 9, 4, 60)
    expected = np.rint(np.clip((values[3:9, 4:60, :1].astype(float) - 100) / 2900, 0, 1) * 255)
    np.testing.assert_allclose(given, expected, atol=1)


def test_bad_files_are_named(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    np.save(tmp_path / "float.npy", np.zeros((10, 10), np.float32))
    np.save(tmp_path / "pickle.npy", np.array([{}]))
    np.save(tmp_path / "two.npy", np.zeros((10, 10, 2), np.uint8))
    np.save(tmp_path / "good.npy", np.zeros((10, 10, 3), np.uint8))
    for name, how, message in (
        ("a.png", decoding(), "libvips can't read it"),
        ("none.png", decoding(), "there is no such file"),
        ("none.npy", decoding(), "No such file"),
        ("float.npy", decoding(channels=1), r"data\.window"),
        ("pickle.npy", decoding(), "Python objects"),
        ("two.npy", decoding(), r"the shape \(10, 10, 2\)"),
        ("good.npy", decoding(max_pixels=99), "10x10 pixels are more than"),
    ):
        with pytest.raises(UnreadableImageError, match=rf"{name}.*{message}"):
            open_regions(tmp_path / name, how)


def test_grey_of_colour_and_back():
    colour = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    grey = Regions(colour, 1, None).read(2, 12, 5, 25)
    np.testing.assert_array_equal(grey[..., 0], np.array(Image.fromarray(colour[2:12, 5:25]).convert("L")))
    again = Regions(grey, 3, None).read(0, 10, 0, 20)
    np.testing.assert_array_equal(again, np.repeat(grey, 3, axis=2))


@pytest.mark.parametrize("quarters", range(4))
@pytest.mark.parametrize(("flip", "vertical_flip"), [(False, False), (True, False), (False, True), (True, True)])
def test_a_turned_image_is_that_of_the_whole(flip, vertical_flip, quarters):
    shape = (20, 30) if quarters % 2 == 0 else (30, 30)
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    whole = torch.from_numpy(pixels).permute(2, 0, 1)
    whole = whole.flip(-1) if flip else whole
    whole = whole.flip(-2) if vertical_flip else whole
    whole = whole.rot90(quarters, (-2, -1)).permute(1, 2, 0).numpy()
    turned = Turned(Regions(pixels, 3, None), flip=flip, vertical_flip=vertical_flip, quarters=quarters)
    assert turned.shape == whole.shape
    np.testing.assert_array_equal(turned.read(3, 17, 5, 26), whole[3:17, 5:26])
