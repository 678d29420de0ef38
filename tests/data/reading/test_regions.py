"""Regions hold the pixels that the whole image has there."""

from unittest.mock import Mock

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


@pytest.mark.parametrize("tile", [None, (32, 32)])
@pytest.mark.parametrize("dtype", ["u2", "i2", "u4", "i4", "f4", ">u4"])
def test_numbers_of_every_type(tmp_path, dtype, tile):
    values = np.random.default_rng(0).integers(0, 30000, (90, 120)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", values, tile=tile)
    for window in ((1000, 20000), None) if values.dtype.kind != "f" else ((1000, 20000),):
        check(tmp_path / "a.tif", decoding(channels=1, window=window))


def test_integers_beyond_the_default_are_named(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[1, 2**20]], np.uint32))
    image = open_regions(tmp_path / "a.npy", decoding(channels=1))
    with pytest.raises(UnreadableImageError, match=r"a\.npy: it holds uint32 of 1\.\.1048576, .*data\.window="):
        image.read(0, 1, 0, 2)


@pytest.mark.parametrize("bands", [1, 3, 4])
@pytest.mark.parametrize("window", [None, (1000, 20000)])
def test_deep_png(tmp_path, bands, window):
    """Of 16-bit colour the upper byte is read, without a window; grey has one."""
    values = np.random.default_rng(0).integers(0, 30000, (90, 120, bands), np.uint16)
    image = pyvips.Image.new_from_array(values).copy(interpretation="grey16" if bands == 1 else "rgb16")
    image.pngsave(str(tmp_path / "a.png"))
    check(tmp_path / "a.png", decoding(channels=min(3, bands), window=window))


def test_profiles_of_8_bits_are_converted_and_of_16_left(tmp_path, photo):
    image = pyvips.Image.new_from_array(np.array(photo)).copy(interpretation="srgb").icc_export(output_profile="p3")
    image.tiffsave(str(tmp_path / "a.tif"))
    check(tmp_path / "a.tif", decoding(srgb=True), tolerance=2)
    (image.cast("ushort") * 100).cast("ushort").copy(interpretation="rgb16").tiffsave(str(tmp_path / "deep.tif"))
    check(tmp_path / "deep.tif", decoding(srgb=True, window=(0, 20000)))


def test_what_libvips_reads_otherwise_is_refused(tmp_path, photo):
    grey = np.random.default_rng(0).integers(0, 30000, (90, 120), np.uint16)
    xmp = b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    for name, values in {"white": grey, "signed": grey.astype(np.int32), "float": grey.astype(np.float32)}.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", values, photometric="miniswhite")
    tifffile.imwrite(tmp_path / "int8.tif", np.zeros((90, 120), np.int8))
    rgba = np.dstack([grey, grey, grey, grey])
    tifffile.imwrite(tmp_path / "alpha.tif", rgba, photometric="rgb", extrasamples=("assocalpha",))
    pyvips.Image.new_from_array(np.dstack([grey, grey])).copy(interpretation="grey16").pngsave(str(tmp_path / "la.png"))
    photo.convert("YCbCr").save(tmp_path / "ycbcr.tif")
    photo.convert("CMYK").save(tmp_path / "cmyk.tif")
    photo.convert("CMYK").save(tmp_path / "cmyk.jpg")
    photo.save(tmp_path / "xmp.jpg", xmp=xmp)
    photo.save(tmp_path / "xmp.tif", tiffinfo={700: xmp})
    photo.save(tmp_path / "good.png")
    np.save(tmp_path / "bool.npy", grey > 9)
    np.save(tmp_path / "int8.npy", grey.astype(np.int8))
    for name, message, options in (
        ("white.tif", "it is a 16-bit TIFF of grey whose zero is white", {"channels": 1}),
        ("signed.tif", "it is a 32-bit TIFF of grey whose zero is white", {"channels": 1}),
        ("float.tif", "it is a float TIFF of grey whose zero is white", {"channels": 1}),
        ("int8.tif", "it holds int8, .*save it as uint8", {"channels": 1}),
        ("alpha.tif", "alpha multiplied into it, .*save it without", {}),
        ("la.png", "more than 8 bits.*save it as TIFF", {"channels": 1}),
        ("ycbcr.tif", "a 8-bit TIFF of YCbCr, .*save it as RGB", {}),
        ("cmyk.tif", "it is CMYK, .*save it as RGB", {}),
        ("cmyk.jpg", "it is CMYK, .*save it as RGB", {}),
        ("xmp.jpg", "its XMP alone, .*save it upright", {}),
        ("xmp.tif", "its XMP alone, .*save it upright", {}),
        ("good.png", r"data\.reduce_to", {"reduce_to": 20}),
        ("bool.npy", "it holds bool, .*save it as uint8", {"channels": 1}),
        ("int8.npy", "it holds int8, .*save it as uint8", {"channels": 1}),
    ):
        with pytest.raises(UnreadableImageError, match=rf"{name}: .*{message}"):
            open_regions(tmp_path / name, decoding(window=(0, 30000), **options))


def test_bad_files_are_named(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    (tmp_path / "empty.npy").touch()
    np.save(tmp_path / "float.npy", np.zeros((10, 10), np.float32))
    np.save(tmp_path / "pickle.npy", np.array([{}]))
    np.save(tmp_path / "two.npy", np.zeros((10, 10, 2), np.uint8))
    np.save(tmp_path / "good.npy", np.zeros((10, 10, 3), np.uint8))
    np.save(tmp_path / "twelve.npy", np.zeros((10, 10, 12), np.uint8))
    for name, how, message in (
        ("a.png", decoding(), "libvips can't read it"),
        ("none.png", decoding(), "there is no such file"),
        ("none.npy", decoding(), "No such file"),
        ("empty.npy", decoding(), "No data left"),
        ("float.npy", decoding(channels=1), r"data\.window"),
        ("pickle.npy", decoding(), "Python objects"),
        ("two.npy", decoding(), r"the shape \(10, 10, 2\)"),
        ("good.npy", decoding(max_pixels=99), "10x10 pixels are more than"),
        ("twelve.npy", decoding(channels=12, max_pixels=299), "10x10 pixels of 12 bands are more than"),
    ):
        with pytest.raises(UnreadableImageError, match=rf"{name}.*{message}"):
            open_regions(tmp_path / name, how)


def test_memory_that_is_short_is_no_damage_of_the_file(tmp_path, photo, monkeypatch):
    photo.save(tmp_path / "a.png")
    short = Mock(side_effect=MemoryError("Unable to allocate 10 GiB"))
    regions = open_regions(tmp_path / "a.png", decoding())
    monkeypatch.setattr("hct_lightning.data.reading.regions.to_uint8", short)
    with pytest.raises(MemoryError, match="Unable"):
        regions.read(0, 5, 0, 5)
    monkeypatch.setattr("hct_lightning.data.reading.regions.open_with_vips", short)
    with pytest.raises(MemoryError, match="Unable"):
        open_regions(tmp_path / "a.png", decoding())


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


def test_a_damaged_file_is_named_when_a_region_of_it_can_not_be_read(tmp_path, photo):
    photo.resize((900, 1200)).save(tmp_path / "cut.jpg", quality=95)
    whole = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    regions = open_regions(tmp_path / "cut.jpg", decoding())
    with pytest.raises(UnreadableImageError, match=r"cut\.jpg: "):
        regions.read(0, 1200, 0, 900)
