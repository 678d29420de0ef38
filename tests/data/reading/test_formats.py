"""Formats that Pillow does not read, and the fast way of those that it does."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from hct_lightning.data.reading import geometry as geo
from hct_lightning.data.reading import image as images
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.image import UnreadableImageError, probe, read_image
from hct_lightning.data.reading.vips import read_with_vips, shrink_factor

LIMIT = 2**26


def read(path, channels: int, **options) -> torch.Tensor:
    return read_image(
        path, Decoding(**{"size": None, "geometry": "cover", "max_pixels": LIMIT} | options, channels=channels)
    )


pyvips = pytest.importorskip("pyvips")


def fast_and_slow(path: Path, size: geo.Size, geometry: geo.Geometry, channels: int = 3):
    """As read, and its obvious twin: the whole image decoded by Pillow, cut and scaled by torch."""
    fast = read(path, channels, size=size, geometry=geometry)
    slow = geo.apply(read(path, channels), size, geometry)
    assert fast.shape == slow.shape == (channels, *size)
    return fast, slow


def difference(a: torch.Tensor, b: torch.Tensor) -> tuple[float, float]:
    off = (a.int() - b.int()).abs().flatten().numpy()
    return off.mean(), np.percentile(off, 99)


SIZES = [(270, 480), (540, 960), (1080, 1920), (1000, 1000), (333, 500), (224, 224), (2160, 3840)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("geometry", ["cover", "paper"])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_fast_reading_agrees_with_reading_all_of_it(tmp_path, photos, suffix, geometry, size):
    photo = photos / "Animal/canyon-wren.jpg"
    path = tmp_path / f"photo.{suffix}"
    if suffix == "jpg":
        path = photo
    else:  # a third of the sides: fast enough for every format
        options = {"compress_level": 1} if suffix == "png" else {}
        Image.open(photo).resize((1280, 720)).save(path, **options)
        size = (size[0] // 3, size[1] // 3)
    fast, slow = fast_and_slow(path, size, geometry)
    mean, p99 = difference(fast, slow)
    assert mean <= 1
    assert p99 <= 6
    region = geo.choose_region(probe(path, max_pixels=LIMIT)[1:], size, geometry)
    if (region.height, region.width) == size:  # only cut: nothing may differ
        assert torch.equal(fast, slow)


@pytest.mark.parametrize("size", [(200, 200), (301, 203), (97, 400)])
@pytest.mark.parametrize("shape", [(1001, 1503), (640, 480), (1000, 1002)])
def test_odd_sizes_agree_too(tmp_path, photos, shape, size):
    path = tmp_path / "photo.jpg"
    Image.open(photos / "Animal/canyon-wren.jpg").resize(shape[::-1]).save(path, quality=92)
    for channels, geometry in itertools.product((1, 3), ("cover", "paper")):
        mean, p99 = difference(*fast_and_slow(path, size, geometry, channels))
        assert mean <= 1
        assert p99 <= 6


def test_a_jpeg_is_shrunk_while_decoding_only_where_all_divides():
    def factor(source: geo.Size, target: geo.Size) -> int:
        return shrink_factor(source, geo.choose_region(source, target, "cover"), target)

    assert factor((8000, 8000), (4000, 4000)) == 2
    assert factor((8000, 8000), (4001, 4001)) == 1
    assert factor((8000, 8000), (1000, 1000)) == 8
    assert factor((8000, 8000), (900, 900)) == 8
    assert factor((8002, 8002), (900, 900)) == 2
    assert factor((8001, 8001), (900, 900)) == 1


def test_the_fast_way_is_taken(photos):
    photo = photos / "Animal/canyon-wren.jpg"
    args = ("JPEG", 3, (2160, 3840), 1, (1080, 1920), "cover")
    assert read_with_vips(photo, *args).shape == (1080, 1920, 3)


def test_without_libvips_pillow_reads_the_same(photos, monkeypatch):
    photo = photos / "Animal/canyon-wren.jpg"
    with_it = read(photo, 3, size=(1080, 1920))
    monkeypatch.setattr(images, "read_with_vips", lambda *_: None)
    without = read(photo, 3, size=(1080, 1920))
    mean, p99 = difference(with_it, without)
    assert mean <= 1
    assert p99 <= 6


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1", "I;16", "F", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_every_mode_is_read_at_a_size(tmp_path, photos, mode, orientation):
    picture = Image.open(photos / "Animal/canyon-wren.jpg").resize((320, 180))
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    else:
        picture = picture.convert(mode)
    path = tmp_path / f"a.{'tif' if mode in ('F', 'CMYK') else 'png'}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(path, exif=exif)
    for channels in (1, 3):
        mean, p99 = difference(*fast_and_slow(path, (90, 90), "cover", channels))
        assert mean <= 1
        assert p99 <= 6


def test_a_file_that_changes_is_read_anew(tmp_path):
    path = tmp_path / "a.png"
    for colour in ((255, 0, 0), (0, 255, 0)):
        Image.new("RGB", (64, 64), colour).save(path)
        assert read(path, 3, size=(16, 16))[:, 0, 0].tolist() == list(colour)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_a_truncated_file_is_named_on_the_fast_way_too(tmp_path, photos, suffix):
    path = tmp_path / f"cut.{suffix}"
    Image.open(photos / "Animal/canyon-wren.jpg").resize((640, 360)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 3 // 4])
    with pytest.raises(UnreadableImageError, match=rf"cut\.{suffix}: .+; remove or replace"):
        read(path, 3, size=(128, 128))


def test_icc_profiles_are_an_option(tmp_path):
    """A red stored in another space: the same numbers mean another colour."""
    path = tmp_path / "a.png"
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (32, 32), (200, 30, 30)).save(path, icc_profile=srgb)
    for convert in (False, True):
        image = read(path, 3, srgb=convert, size=(16, 16))
        assert (image[:, 0, 0].int() - torch.tensor([200, 30, 30])).abs().max() <= 2
    Image.new("RGB", (32, 32), (200, 30, 30)).save(path, icc_profile=lab)
    with pytest.raises(UnreadableImageError, match=r"a\.png: its ICC profile can't be used"):
        read(path, 3, srgb=True)
    assert read(path, 3)[:, 0, 0].tolist() == [200, 30, 30]


# TIFF of many bands


def bands(path: Path, values: np.ndarray, **options) -> Path:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(path, values, **options)
    return path


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("tile", [None, (64, 64)])
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_a_satellites_tiff(tmp_path, planar, tile, compression):
    values = np.random.default_rng(0).integers(0, 4000, (100, 150, 6), np.uint16)
    stored = values if planar == "contig" else values.transpose(2, 0, 1)
    path = bands(
        tmp_path / "s.tif",
        stored,
        photometric="minisblack",
        planarconfig=planar,
        tile=tile,
        compression=compression,
    )
    assert probe(path, max_pixels=LIMIT) == (6, 100, 150)
    image = read(path, 6, window=(0, 4000))
    want = np.rint(values.astype(np.float32) * (255 / 4000))
    assert np.array_equal(image.permute(1, 2, 0), want)
    assert read(path, 6, size=(50, 50)).shape == (6, 50, 50)
    with pytest.raises(UnreadableImageError, match=r"it has 6 bands where data\.channels=3"):
        read(path, 3)


def test_each_band_may_have_its_window_and_nan_becomes_its_lower_end(tmp_path):
    values = np.stack([np.full((4, 5), 0.5), np.full((4, 5), 50), np.full((4, 5), -5)], -1)
    values[0, 0] = np.nan
    path = bands(tmp_path / "f.tif", values.astype(np.float32), photometric="rgb")
    image = read(path, 3, window=((0, 1), (0, 100), (-10, 0)))
    assert image[:, 1, 1].tolist() == [128, 128, 128]
    assert image[:, 0, 0].tolist() == [0, 0, 0]
    with pytest.raises(UnreadableImageError, match=r"data\.window is for 2 bands, the image has 3"):
        read(path, 3, window=((0, 1), (0, 100)))


def test_sixteen_bit_colour_keeps_its_window(tmp_path):
    values = np.zeros((8, 8, 3), np.uint16)
    values[..., 0], values[..., 1] = 500, 1000
    path = bands(tmp_path / "c.tif", values, photometric="rgb")
    assert read(path, 3, window=(0, 1000))[:, 0, 0].tolist() == [
        128,
        255,
        0,
    ]


# DICOM


def test_dicom_as_radiologists_see_it(tmp_path, write_dicom):
    values = np.array([[0, 1000, 2000, 3000, 4000]], np.uint16).repeat(4, 0)
    row = {
        "plain": ({}, [0, 64, 128, 191, 255]),
        "inverted": ({"PhotometricInterpretation": "MONOCHROME1"}, [255, 191, 127, 64, 0]),
        "windowed": ({"WindowCenter": 2000, "WindowWidth": 2000}, [0, 0, 128, 255, 255]),
    }
    for name, (elements, want) in row.items():
        path = write_dicom(tmp_path / f"{name}.dcm", values, **elements)
        assert probe(path, max_pixels=LIMIT) == (1, 4, 5)
        got = read(path, 1)[0, 0]
        assert (got.int() - torch.tensor(want)).abs().max() <= 1, name
    ct = write_dicom(tmp_path / "ct", values, RescaleSlope=1, RescaleIntercept=-1000)  # no suffix: known by its content
    assert read(ct, 1, window=(0, 2000))[0, 0].tolist() == [
        0,
        0,
        128,
        255,
        255,
    ]
    assert read(ct, 3, size=(4, 4)).shape == (3, 4, 4)
    with pytest.raises(UnreadableImageError, match=r"data\.max_pixels=3"):
        read(ct, 1, max_pixels=3)


def test_colour_dicom(tmp_path, write_dicom):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    path = write_dicom(tmp_path / "c.dcm", pixels)
    assert probe(path, max_pixels=LIMIT) == (3, 6, 8)
    assert np.array_equal(read(path, 3).permute(1, 2, 0), pixels)


def test_the_breast_lies_on_the_left_and_fills_the_image(tmp_path, write_dicom):
    y, x = np.mgrid[:400, :300]
    breast = np.where((x - 299) ** 2 / 150**2 + (y - 200) ** 2 / 120**2 < 1, 3000, 20)
    breast[10:20, 5:25] = 4000  # the label in the corner
    path = write_dicom(tmp_path / "m.dcm", breast.astype(np.uint16))
    assert read(path, 1).shape == (1, 400, 300)
    image = read(path, 1, breast=True)[0]
    assert image[image.shape[0] // 2, 0] > 150
    assert 236 <= image.shape[0] <= 252
    assert 148 <= image.shape[1] <= 160


def test_a_broken_dicom_is_named(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "a.dcm", np.zeros((50, 50), np.uint16))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UnreadableImageError, match=r"a\.dcm: .*; remove or replace"):
        read(path, 1)


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    values = np.zeros((8, 8, 5), np.uint16)
    path = bands(tmp_path / "s.tif", values, photometric="minisblack", planarconfig="contig")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(UnreadableImageError, match=r"pip install 'hct-lightning\[data\]'"):
        read(path, 5)
