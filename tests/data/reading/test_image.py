from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from hct_lightning.data.reading.image import UnreadableImageError, is_image, probe, sample_sizes

ANY_MODE = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F")
STORES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ANY_MODE,
    "BMP": ("1", "L", "P", "RGB"),
}
GREY = {"1", "L", "LA", "I;16", "F"}
# Blocks of 16 pixels, in whose middle JPEG and WebP keep the colour.
COLOURS = np.array([[[200, 40, 90], [20, 220, 60], [0, 0, 0]], [[255] * 3, [90, 90, 90], [30, 60, 250]]])
PICTURE = np.kron(COLOURS, np.ones((16, 16, 1))).astype(np.uint8)  # 32 48 3


def store(path: Path, mode: str, file_format: str, picture: np.ndarray = PICTURE, **options) -> Path:
    """Writes the picture in a mode of Pillow's."""
    image = Image.fromarray(picture)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.float32) / 1000 - 0.1)
    else:
        image = image.convert(mode)
    image.save(path, file_format, **options)
    return path


@pytest.mark.parametrize(("file_format", "mode"), [(f, m) for f, modes in STORES.items() for m in modes])
def test_every_mode_is_read_as_grey_and_as_colour(tmp_path, file_format, mode, read):
    path = store(tmp_path / "image", mode, file_format)  # Pillow goes by content, not by name
    stored = Image.fromarray(PICTURE).convert("L" if mode in {"I;16", "F"} else mode)
    for channels, wanted in ((1, "L"), (3, "RGB")):
        image = read(path, channels)
        expected = np.asarray(stored.convert(wanted)).reshape(32, 48, channels)
        assert image.dtype == torch.uint8
        difference = image.permute(1, 2, 0).numpy().astype(int) - expected
        if file_format in ("JPEG", "WEBP"):
            assert np.abs(difference[8::16, 8::16]).max() <= 4
        else:
            assert np.abs(difference).max() <= 1
        assert image.permute(1, 2, 0).is_contiguous()  # h w c underneath
        image[:] = 0  # its own memory, writable
    assert probe(path, max_pixels=2**24) == (1 if mode in GREY else 3, 32, 48)


def test_transparency_is_dropped_without_a_word(tmp_path, read):
    palette = Image.fromarray(PICTURE).quantize(8)
    palette.save(tmp_path / "palette.png", transparency=bytes(range(0, 256, 32)))
    assert torch.equal(read(tmp_path / "palette.png"), read(store(tmp_path / "b.png", "RGB", "PNG")))
    faint = np.dstack([PICTURE, np.full((32, 48), 3, np.uint8)])
    Image.fromarray(faint).save(tmp_path / "faint.png")
    assert np.array_equal(read(tmp_path / "faint.png").permute(1, 2, 0), PICTURE)


@pytest.mark.parametrize(
    ("file_format", "mode"),
    [(f, m) for f, modes in STORES.items() for m in modes if f != "BMP"],  # which has no EXIF
)
def test_exif_orientation(tmp_path, file_format, mode, read):
    upright = read(store(tmp_path / "upright", mode, file_format))
    for orientation, turn in {
        1: lambda x: x,
        2: lambda x: x.flip(2),
        3: lambda x: x.flip(1, 2),
        4: lambda x: x.flip(1),
        5: lambda x: x.mT,
        6: lambda x: x.rot90(-1, (1, 2)),
        7: lambda x: x.flip(1, 2).mT,
        8: lambda x: x.rot90(1, (1, 2)),
        9: lambda x: x,  # no such orientation
    }.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = store(tmp_path / f"{orientation}", mode, file_format, exif=exif)
        image = read(path)
        assert torch.equal(image, turn(upright)), orientation
        assert probe(path, max_pixels=2**24)[1:] == image.shape[1:]
        assert image.permute(1, 2, 0).is_contiguous()


def test_a_photograph(photos, read):
    path = photos / "Animal/canyon-wren.jpg"
    assert probe(path, max_pixels=2**24) == (3, 2160, 3840)
    image = read(path)
    assert np.array_equal(image.permute(1, 2, 0), np.asarray(Image.open(path)))
    grey = read(str(path), 1)
    assert grey.shape == (1, 2160, 3840)


def cut(path: Path, share: float) -> Path:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    return path


@pytest.mark.parametrize("share", [0, 0.01, 0.1, 0.6, 0.9])
@pytest.mark.parametrize("file_format", list(STORES))
def test_truncated_files_are_named(tmp_path, file_format, share, read):
    noise = np.random.default_rng(0).integers(0, 256, (60, 70, 3), np.uint8)
    path = cut(store(tmp_path / "cut.png", "RGB", file_format, noise), share)
    with pytest.raises(UnreadableImageError, match=r"cut\.png: .+; remove or replace the file"):
        read(path)


def test_every_reason_is_given(tmp_path, read, store_values):
    text = tmp_path / "text.jpg"
    text.write_text("not an image")
    fits = store(tmp_path / "large.png", "RGB", "PNG")
    nan = store_values(tmp_path / "nan.tiff", [np.nan, np.nan], np.float32)
    for path, reason in (
        (text, "not an image, but text"),
        (tmp_path / "absent.png", "no such file"),
        (tmp_path, "it is a folder"),
        (nan, "no finite value"),
    ):
        with pytest.raises(UnreadableImageError, match=reason) as raised:
            read(path)
        assert str(path) in str(raised.value)
        if path != nan:  # which only the pixels tell
            with pytest.raises(UnreadableImageError, match=reason):
                probe(path, max_pixels=2**24)
    for look in (probe, lambda path, max_pixels: read(path, max_pixels=max_pixels)):
        look(fits, max_pixels=32 * 48)
        with pytest.raises(UnreadableImageError, match=r"large\.png: 48x32 .* data\.max_pixels=1535"):
            look(fits, max_pixels=32 * 48 - 1)


def test_a_huge_header_is_refused_without_pillows_warning(tmp_path, read):
    path = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(path)  # 50 kB; Pillow itself warns above 90 megapixels
    assert probe(path, max_pixels=2**30) == (1, 20_000, 20_000)
    with pytest.raises(UnreadableImageError, match=r"data\.max_pixels=16777216"):
        read(path)


def test_sizes_of_some_files(tmp_path):
    paths = [str(tmp_path / f"{i:03}.png") for i in range(100)]
    for i, path in enumerate(paths):
        Image.new("1", (1 + i, 9)).save(path)
    Path(paths[0]).write_text("no image")
    sizes = sample_sizes(paths, max_pixels=10**4, most=10)
    assert sizes == [(9, 1 + i) for i in range(10, 100, 10)]
    assert sample_sizes(paths[1:3], max_pixels=10**4) == [(9, 2), (9, 3)]


def test_is_image():
    assert all(is_image(Path(name)) for name in ("a.jpg", "b.JPEG", "c.Tif", "d.e.png"))
    assert not any(is_image(Path(name)) for name in ("a.txt", "._a.jpg", ".png", "jpg", "a.jpg.part"))


def test_icc_profiles_are_an_option(tmp_path, read):
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


@pytest.mark.parametrize("mode", ["P", "L", "LA", "1"])
def test_fewer_colours_with_the_profile_of_a_screen(tmp_path, read, mode):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("L", (32, 32), 255).convert(mode).save(tmp_path / "a.png", icc_profile=srgb)
    for channels in (1, 3):
        assert (read(tmp_path / "a.png", channels, srgb=True)[:, 0, 0].int() - 255).abs().max() <= 2


@pytest.mark.parametrize(
    "error", [MemoryError("Unable to allocate 10 GiB"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_memory_that_is_short_is_no_damage_of_the_file(tmp_path, monkeypatch, read, error):
    path = store(tmp_path / "a.png", "RGB", "PNG")
    monkeypatch.setattr("hct_lightning.data.reading.image._sized", Mock(side_effect=error))
    with pytest.raises(MemoryError, match=rf"a\.png: {error}"):
        read(path)
