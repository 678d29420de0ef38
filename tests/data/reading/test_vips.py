"""The fast way of reading agrees with the slow one."""

import itertools
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hct_lightning.data.reading import geometry as geo
from hct_lightning.data.reading import image as images
from hct_lightning.data.reading.image import UnreadableImageError, probe
from hct_lightning.data.reading.vips import read_with_vips, shrink_factor

pyvips = pytest.importorskip("pyvips")


@pytest.fixture
def fast_and_slow(read):
    """As read, and its obvious twin: the whole image decoded by Pillow, cut and scaled by torch."""

    def both(path: Path, size: geo.Size, geometry: geo.Geometry, channels: int = 3):
        fast = read(path, channels, size=size, geometry=geometry)
        slow = geo.apply(read(path, channels), size, geometry)
        assert fast.shape == slow.shape == (channels, *size)
        return fast, slow

    return both


def difference(a: torch.Tensor, b: torch.Tensor) -> tuple[float, float]:
    off = (a.int() - b.int()).abs().flatten().numpy()
    return off.mean(), np.percentile(off, 99)


SIZES = [(270, 480), (540, 960), (1080, 1920), (1000, 1000), (333, 500), (224, 224), (2160, 3840)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("geometry", ["cover", "paper"])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_fast_reading_agrees_with_reading_all_of_it(tmp_path, photos, suffix, geometry, size, fast_and_slow):
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
    region = geo.choose_region(probe(path, max_pixels=2**24)[1:], size, geometry)
    if (region.height, region.width) == size:  # only cut: nothing may differ
        assert torch.equal(fast, slow)


@pytest.mark.parametrize("size", [(200, 200), (301, 203), (97, 400)])
@pytest.mark.parametrize("shape", [(1001, 1503), (640, 480), (1000, 1002)])
def test_odd_sizes_agree_too(tmp_path, photos, shape, size, fast_and_slow):
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


def test_without_libvips_pillow_reads_the_same(photos, monkeypatch, read):
    photo = photos / "Animal/canyon-wren.jpg"
    with_it = read(photo, 3, size=(1080, 1920))
    monkeypatch.setattr(images, "read_with_vips", lambda *_: None)
    without = read(photo, 3, size=(1080, 1920))
    mean, p99 = difference(with_it, without)
    assert mean <= 1
    assert p99 <= 6


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1", "I;16", "F", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_every_mode_is_read_at_a_size(tmp_path, photos, mode, orientation, fast_and_slow):
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


def test_a_file_that_changes_is_read_anew(tmp_path, read):
    path = tmp_path / "a.png"
    for colour in ((255, 0, 0), (0, 255, 0)):
        Image.new("RGB", (64, 64), colour).save(path)
        assert read(path, 3, size=(16, 16))[:, 0, 0].tolist() == list(colour)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_a_truncated_file_is_named_on_the_fast_way_too(tmp_path, photos, suffix, read):
    path = tmp_path / f"cut.{suffix}"
    Image.open(photos / "Animal/canyon-wren.jpg").resize((640, 360)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 3 // 4])
    with pytest.raises(UnreadableImageError, match=rf"cut\.{suffix}: .+; remove or replace"):
        read(path, 3, size=(128, 128))


@pytest.mark.parametrize("name", [b"\xff.jpg", b"photo.jpg[shrink=8]", b"a\nb.jpg", b"photo [1].jpg"])
def test_files_of_any_name_are_read(tmp_path, photos, read, name):
    odd = tmp_path / os.fsdecode(name)
    shutil.copy(photos / "Animal/canyon-wren.jpg", odd)
    wanted = read(photos / "Animal/canyon-wren.jpg", 3, size=(270, 480), geometry="cover")
    assert difference(read(odd, 3, size=(270, 480), geometry="cover"), wanted) <= (1, 4)
