"""Files as they come: each gives its pixels, or one line that names it, says what it is and what helps."""

import logging
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hct_lightning.data.reading.image import UnreadableImageError, probe

LIMIT = 2**24
COLOURS = np.array([[[200, 40, 90], [20, 220, 60], [0, 0, 0]], [[255] * 3, [90, 90, 90], [30, 60, 250]]], np.uint8)
PICTURE = COLOURS.repeat(16, 0).repeat(16, 1)  # 32 48 3
GREY = np.asarray(Image.fromarray(PICTURE).convert("L"))


def said(path: Path | str, read, **options) -> str:
    """The one line that refuses a file, the same whether its head is read or all of it."""
    messages = []
    for look in (lambda: probe(path, max_pixels=LIMIT), lambda: read(path, **options)):
        with pytest.raises(UnreadableImageError) as raised:
            look()
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
    assert "\n" not in messages[0]
    return messages[0]


@pytest.fixture
def write(tmp_path):
    """Writes a TIFF, 16 bits for each of the values 0 to 255 unless `dtype` says otherwise."""
    tifffile = pytest.importorskip("tifffile")

    def write(pixels: np.ndarray, *, dtype=np.uint16, **options) -> Path:
        path = tmp_path / "a.tif"
        values = pixels.astype(dtype) * 257 if dtype == np.uint16 else (pixels / 255).astype(dtype)
        tifffile.imwrite(path, values, **options)
        return path

    return write


ALPHA = np.full((32, 48), 77, np.uint8)
TIFFS = {
    "RGBA": (np.dstack([PICTURE, ALPHA]), {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
    "RGBA, premultiplied": (np.dstack([PICTURE, ALPHA]), {"photometric": "rgb", "extrasamples": ["assocalpha"]}),
    "RGBA, band after band": (
        np.dstack([PICTURE, ALPHA]).transpose(2, 0, 1),
        {"photometric": "rgb", "planarconfig": "separate", "extrasamples": ["unassalpha"]},
    ),
    "RGB, of big-endian bytes": (PICTURE, {"photometric": "rgb", "byteorder": ">"}),
    "grey with alpha": (
        np.dstack([GREY, ALPHA]),
        {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": ["unassalpha"]},
    ),
    "grey, white is zero": (255 - GREY, {"photometric": "miniswhite"}),
    "grey, half floats": (GREY, {"photometric": "minisblack", "dtype": np.float16}),
    "grey, doubles": (GREY, {"photometric": "minisblack", "dtype": np.float64}),
    "RGB, floats": (PICTURE, {"photometric": "rgb", "dtype": np.float32}),
}


@pytest.mark.parametrize("name", TIFFS)
@pytest.mark.parametrize("channels", [1, 3])
def test_deep_tiffs_are_grey_or_colour_without_their_transparency(name, channels, write, read):
    pixels, options = TIFFS[name]
    path = write(pixels, **options)
    assert probe(path, max_pixels=LIMIT) == (1 if "grey" in name else 3, 32, 48)
    wanted = PICTURE if channels == 3 and "RGB" in name else np.dstack([GREY] * channels)
    difference = read(path, channels).permute(1, 2, 0).numpy().astype(int) - wanted
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_tiffs_are_turned_as_photographs_are(orientation, tmp_path, write, read):
    deep = write(PICTURE, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    exif = Image.Exif()
    exif[274] = orientation
    plain = tmp_path / "plain.png"
    Image.fromarray(PICTURE).save(plain, exif=exif)
    assert np.array_equal(read(deep), read(plain))
    assert probe(deep, max_pixels=LIMIT) == probe(plain, max_pixels=LIMIT)


def test_what_has_no_number_or_no_end_becomes_the_window_s(write, read):
    values = PICTURE.astype(np.float32)
    values[0, 0], values[0, 1], values[0, 2] = np.nan, np.inf, -np.inf
    path = write(values, dtype=np.float32, photometric="rgb")
    image = read(path, window=(0, 1)).permute(1, 2, 0)
    assert image[0, :3].tolist() == [[0] * 3, [255] * 3, [0] * 3]
    assert np.array_equal(image[1:], PICTURE[1:])


def test_a_message_says_what_a_file_is(tmp_path, write, read):
    four = np.dstack([PICTURE, ALPHA])
    bands = write(four, photometric="rgb", extrasamples=["unspecified"])
    with pytest.raises(UnreadableImageError, match=r"it is a 16-bit TIFF of 4 bands where data\.channels=3; remove"):
        read(bands, 3)
    assert read(bands, 4).shape == (4, 32, 48)
    ink = write(four, photometric="separated", planarconfig="contig")
    with pytest.raises(UnreadableImageError, match="it is a 16-bit TIFF of CMYK; save it as RGB"):
        read(ink, 3)
    for mode, suffix, kind in (
        ("CMYK", "jpg", "a CMYK image"),
        ("RGBA", "png", "an RGB image with alpha"),
        ("LA", "png", "a grey image with alpha"),
        ("P", "png", "a palette image"),
        ("RGBA", "tif", "a 8-bit TIFF of RGB with alpha"),
        ("CMYK", "tif", "a 8-bit TIFF of CMYK"),
    ):
        path = tmp_path / f"b.{suffix}"
        Image.fromarray(PICTURE).convert(mode).save(path)
        with pytest.raises(UnreadableImageError, match=rf"b\.{suffix}: it is {kind}"):
            read(path, 4)
        assert read(path, 3).shape == (3, 32, 48)


def test_a_fourth_band_of_eight_bits_is_there_for_those_who_ask(write, read):
    path = write(np.dstack([PICTURE, ALPHA]) / 255, dtype=np.uint8, photometric="rgb", extrasamples=["unspecified"])
    assert read(path, 4).shape == (4, 32, 48)
    assert read(path, 3).shape == (3, 32, 48)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif", "jp2", "avif"])
def test_other_formats_and_the_first_of_several_images(suffix, tmp_path, read):
    path = tmp_path / f"a.{suffix}"
    several = {} if suffix == "jp2" else {"save_all": True, "append_images": [Image.new("RGB", (48, 32))]}
    options = {"webp": {"lossless": True}, "avif": {"quality": 100}}.get(suffix, {})
    Image.fromarray(PICTURE).save(path, **several, **options)
    difference = read(path).permute(1, 2, 0).numpy().astype(int) - PICTURE
    assert np.abs(difference)[8::16, 8::16].max() <= 3


def test_what_is_no_file_is_neither_waited_for_nor_read_for_ever(tmp_path, read):
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "broken.png").symlink_to("nowhere.png")
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("<html>\n</html>")
    for name, reason in {
        "folder.jpg": "it is a folder, not a file",
        "pipe.jpg": "it is a pipe, not a file",
        "device.png": "it is a device or socket, not a file",
        "loop.png": "it is a link that leads back to itself",
        "broken.png": "there is no such file",
        "empty.png": "not an image: the file is empty",
        "text.png": "not an image, but text",
    }.items():
        assert said(tmp_path / name, read) == f"{tmp_path / name}: {reason}; remove or replace the file"


@pytest.mark.parametrize("name", ["new\nline.png", "esc\x1b[2J.png", os.fsdecode(b"byte\xff.png")])
def test_a_name_can_t_break_the_line_that_names_it(name, tmp_path, read):
    path = tmp_path / name
    path.touch()
    line = said(path, read)
    assert line.startswith(repr(str(path)))
    assert line.isprintable()
    Image.fromarray(PICTURE).save(path, "png")
    assert np.array_equal(read(path).permute(1, 2, 0), PICTURE)


@pytest.mark.parametrize("name", ["-dash.png", "quo'te\".png", "ünï 图.png", " space .png", "[a]*?.png"])
def test_other_names_are_shown_as_they_are(name, tmp_path, read):
    (tmp_path / name).touch()
    assert said(tmp_path / name, read).startswith(f"{tmp_path / name}: not an image: the file is empty")


def test_thin_images(tmp_path, read):
    for name, size in (("dot.png", (1, 1)), ("wide.png", (100_000, 1)), ("tall.jpg", (1, 60_000))):
        Image.new("RGB", size, (9, 8, 7)).save(tmp_path / name)
        assert read(tmp_path / name).shape == (3, size[1], size[0])
        assert read(tmp_path / name, size=(16, 16))[:, 8, 8].float().tolist() == pytest.approx([9, 8, 7], abs=3)
        assert read(tmp_path / name, size=(16, 16), geometry="paper").max() <= 10


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("head", [b"zTXt", b"iCCP"])
def test_a_bomb_beside_the_pixels_is_not_unpacked(head, tmp_path, read):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    at = whole.find(b"IDAT") - 4
    bomb = chunk(head, b"k\0\0" + zlib.compress(bytes(50_000_000)))
    (tmp_path / "a.png").write_bytes(whole[:at] + bomb + whole[at:])
    assert "too large" in said(tmp_path / "a.png", read)


def test_bombs_of_pixels_and_bands_are_refused_by_their_heads(tmp_path, read):
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "bomb.tif"
    for bands, dtype, side, line in (
        (5, np.uint16, 60_000, "60000x60000 pixels of 5 bands are more than"),
        (65535, np.uint8, 60, "60x60 pixels of 65535 bands are more than"),
    ):
        tifffile.imwrite(path, np.zeros((8, 8, bands), dtype), photometric="minisblack", planarconfig="contig")
        for name in ("ImageWidth", "ImageLength"):
            with tifffile.TiffFile(path, mode="r+b") as file:
                file.pages.first.tags[name].overwrite(side)
        assert line in said(path, read)


def test_decoders_write_nothing_beside_our_messages(tmp_path, write, read, caplog, capfd):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    paths = [tmp_path / f"cut.{suffix}" for suffix in ("jpg", "png", "tif", "webp")]
    for path in paths:
        Image.fromarray(noise).save(path)
    paths += [write(noise, photometric="rgb", compression="deflate"), tmp_path / "old.tif"]
    Image.fromarray(noise).convert("1").save(paths[-1], compression="group4")
    wrong = tmp_path / "wrong.tif"  # whose codes libtiff itself complains of
    Image.fromarray(noise).save(wrong, compression="tiff_lzw")
    whole = bytearray(wrong.read_bytes())
    whole[200:400] = b"\xff" * 200
    wrong.write_bytes(whole)
    with pytest.raises(UnreadableImageError):
        read(wrong)
    with caplog.at_level(logging.INFO):
        for path in paths:
            path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
            with pytest.raises(UnreadableImageError):
                read(path, size=(16, 16))
    assert not [record for record in caplog.records if record.name.split(".")[0] in ("PIL", "pyvips", "tifffile")]
    assert capfd.readouterr() == ("", "")
