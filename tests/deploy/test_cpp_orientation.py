"""The C++ program turns images as Python does: by EXIF, by XMP, and by the texts of a PNG."""

import struct

import pytest
import torch
from deploy.cpp_program import assert_same_pixels, expected, pixels_artifact, run, seen
from PIL import Image, PngImagePlugin

from hct_lightning.data.reading.image import UnreadableImageError


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_exif_orientation(program, picture, tmp_path, suffix):
    artifact = pixels_artifact(tmp_path, (18, 12))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = tmp_path / f"{orientation}.{suffix}"
        picture.resize((24, 18)).save(image, exif=exif)
        # Another build of libjpeg may round otherwise.
        assert_same_pixels(seen(program, artifact, image), expected(image, (18, 12)), atol=2)


def exif(orientation: int | None) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0131] = "a program"
    if orientation:
        exif[0x0112] = orientation
    return exif


ATTRIBUTE = b'<rdf:Description tiff:Orientation="%d"/>'
ELEMENT = b"<tiff:OrientationX>3</tiff:OrientationX><tiff:Orientation>%d</tiff:Orientation>"


@pytest.mark.parametrize(
    ("in_exif", "in_xmp", "turned"),
    [
        (None, ATTRIBUTE % 6, True),
        (None, ELEMENT % 8, True),
        (None, ATTRIBUTE % 9, False),
        (None, b"tiff:Orientation=", False),
        (exif(None), ATTRIBUTE % 6, True),
        (exif(1), ATTRIBUTE % 6, False),
        (exif(6), ATTRIBUTE % 1, True),
    ],
)
def test_orientation_in_the_xmp_of_a_jpeg(program, picture, tmp_path, in_exif, in_xmp, turned):
    """It counts where EXIF has none."""
    image, plain = tmp_path / "x.jpg", tmp_path / "plain.jpg"
    picture.resize((24, 18)).save(image, xmp=in_xmp, **{"exif": in_exif} if in_exif else {})
    picture.resize((24, 18)).save(plain)
    wanted = expected(image, (18, 12))
    assert torch.equal(wanted, expected(plain, (18, 12))) != turned
    assert_same_pixels(seen(program, pixels_artifact(tmp_path, (18, 12)), image), wanted, atol=2)


def as_imagemagick(exif: Image.Exif) -> str:
    data = exif.tobytes()
    lines = "\n".join(data.hex()[i : i + 72] for i in range(0, 2 * len(data), 72))
    return f"\nexif\n{len(data):8}\n{lines}\n"


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("in_text", "in_exif", "in_xmp", "turned"),
    [
        (exif(6), None, None, True),
        (exif(None), None, ATTRIBUTE % 6, True),
        (exif(1), None, ATTRIBUTE % 6, False),
        (exif(6), exif(1), None, False),
        (None, exif(None), ATTRIBUTE % 6, True),
        (None, None, ATTRIBUTE % 6, False),  # one might stand behind the pixels, so Python does not look for it
    ],
)
def test_orientation_in_the_texts_of_a_png(program, picture, tmp_path, in_text, in_exif, in_xmp, turned, compressed):
    """What older programs of ImageMagick write, and XMP."""
    image, plain = tmp_path / "x.png", tmp_path / "plain.png"
    texts = PngImagePlugin.PngInfo()
    if in_text:
        texts.add_text("Raw profile type exif", as_imagemagick(in_text), zip=compressed)
    if in_xmp:
        texts.add_itxt("XML:com.adobe.xmp", in_xmp.decode(), zip=compressed)
    picture.resize((24, 18)).save(image, pnginfo=texts, **{"exif": in_exif} if in_exif else {})
    picture.resize((24, 18)).save(plain)
    wanted = expected(image, (18, 12))
    assert torch.equal(wanted, expected(plain, (18, 12))) != turned
    assert_same_pixels(seen(program, pixels_artifact(tmp_path, (18, 12)), image), wanted)


def test_exif_behind_the_pixels_of_a_png_does_not_count(program, picture, tmp_path):
    image = tmp_path / "x.png"
    picture.resize((24, 18)).save(image, exif=exif(6))
    data = image.read_bytes()
    at, end = data.index(b"eXIf") - 4, data.index(b"IEND") - 4
    behind = at + 12 + struct.unpack(">I", data[at : at + 4])[0]
    image.write_bytes(data[:at] + data[behind:end] + data[at:behind] + data[end:])
    wanted = expected(image, (18, 12))
    assert_same_pixels(seen(program, pixels_artifact(tmp_path, (18, 12)), image), wanted)


def test_exif_of_a_png_that_is_no_hexadecimal_is_refused(program, picture, tmp_path):
    image = tmp_path / "x.png"
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Raw profile type exif", "\nexif\n       4\n4578-f66\n")
    picture.resize((24, 18)).save(image, pnginfo=texts)
    with pytest.raises(UnreadableImageError):
        expected(image, (18, 12))
    done = run(program, pixels_artifact(tmp_path, (18, 12)), image)
    assert done.returncode == 4
    assert "its EXIF is damaged" in done.stderr
