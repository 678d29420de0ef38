"""The C++ program reads, turns, cuts and resizes images as Python does."""

import csv
import json
import os
import resource
import struct
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from deploy.cpp_program import answer, assert_same_pixels, expected, pixels_artifact, run, seen
from PIL import Image, ImageCms

from hct_lightning.data.reading import geometry
from hct_lightning.data.reading.image import UnreadableImageError


@pytest.mark.parametrize("rule", ["cover", "paper"])
def test_geometry_vectors(program, picture, tmp_path, rule):
    """Every rule and rounding: larger, smaller and narrower than the target, odd sides, borders."""
    artifact = pixels_artifact(tmp_path, (20, 14), geometry=rule)
    sizes = [(420, 280), (20, 14), (21, 23), (14, 20), (13, 57), (7, 5), (41, 29), (15, 22)]
    images = []
    for width, height in sizes:
        images.append(tmp_path / f"{width}x{height}.png")
        picture.resize((width, height)).save(images[-1])
    lines = run(program, artifact, *images).stdout.splitlines()
    assert len(lines) == len(sizes)
    for image, line in zip(images, lines, strict=True):
        probabilities = json.loads(line)["probabilities"].values()
        found = (torch.tensor(list(probabilities)).log() * 50).round()
        assert_same_pixels(found, expected(image, (20, 14), geometry=rule))


def sixteen_bit(picture: Image.Image) -> Image.Image:
    values = np.asarray(picture.convert("L")).astype(np.uint16) * 200 + 321
    return Image.fromarray(values)


KINDS = {
    "rgb": lambda picture: picture,
    "grey": lambda picture: picture.convert("L"),
    "two-level": lambda picture: picture.convert("1"),
    "palette": lambda picture: picture.quantize(64),
    "palette-4-bit": lambda picture: picture.quantize(9),
    "alpha": lambda picture: Image.merge("RGBA", (*picture.split(), picture.split()[0])),
    "grey-alpha": lambda picture: picture.convert("LA"),
    "16-bit": sixteen_bit,
}


@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_of_png(program, picture, tmp_path, channels):
    artifact = pixels_artifact(tmp_path, (18, 12), channels=channels)
    for name, kind in KINDS.items():
        image = tmp_path / f"{name}.png"
        kind(picture.resize((18, 24))).save(image)
        found = seen(program, artifact, image)
        assert_same_pixels(found, expected(image, (18, 12), channels=channels))


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(head: bytes, rows: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("channels", [1, 3])
def test_an_interlaced_png(program, picture, tmp_path, channels):
    """Seven passes: the first has every eighth pixel of every eighth row, and so on."""
    pixels = np.asarray(picture.resize((18, 24)))
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = [b"\0" + row.tobytes() for y, x, down, right in passes for row in pixels[y::down, x::right]]
    image, plain = tmp_path / "x.png", tmp_path / "plain.png"
    image.write_bytes(png(struct.pack(">IIBBBBB", 18, 24, 8, 2, 0, 0, 1), b"".join(rows)))
    picture.resize((18, 24)).save(plain)
    artifact = pixels_artifact(tmp_path, (18, 12), channels=channels)
    wanted = expected(plain, (18, 12), channels=channels)
    assert torch.equal(expected(image, (18, 12), channels=channels), wanted)
    assert_same_pixels(seen(program, artifact, image), wanted)


def test_a_png_takes_the_memory_of_its_pixels(program, tmp_path):
    """A list of its rows would take eight bytes each and more."""
    artifact, peaks = pixels_artifact(tmp_path, (18, 12)), []
    for height in (2**10, 2**24):
        image = tmp_path / f"{height}.png"
        image.write_bytes(png(struct.pack(">IIBBBBB", 1, height, 8, 0, 0, 0, 0), bytes(2 * height)))
        peaks.append(answer(program, artifact, image)["peak_gib"])
    assert peaks[1] - peaks[0] < 0.1, peaks


def test_window_of_16_bit(program, picture, tmp_path):
    artifact = pixels_artifact(tmp_path, (18, 12), channels=1, window=[1000.5, 40000])
    image = tmp_path / "x.png"
    sixteen_bit(picture.resize((18, 24))).save(image)
    wanted = expected(image, (18, 12), channels=1, window=(1000.5, 40000))
    assert_same_pixels(seen(program, artifact, image), wanted)


def test_a_window_for_each_band_is_for_one_band_here(program, picture, tmp_path):
    """What has eight bits is read; 16-bit grey has one band."""
    artifact = pixels_artifact(tmp_path, (18, 12), window=[[0, 9], [0, 9], [0, 9]])
    picture.resize((18, 24)).save(tmp_path / "8.png")
    sixteen_bit(picture.resize((18, 24))).save(tmp_path / "16.png")
    assert_same_pixels(seen(program, artifact, tmp_path / "8.png"), expected(tmp_path / "8.png", (18, 12)))
    refused = run(program, artifact, tmp_path / "16.png")
    assert refused.returncode == 4
    assert "data.window is for 3 bands, the image has 1" in refused.stderr


def test_the_control_that_takes_the_detail(program, picture, tmp_path):
    artifact = pixels_artifact(tmp_path, (18, 12), reduce_to=5)
    image = tmp_path / "x.png"
    picture.resize((18, 24)).save(image)
    wanted = expected(image, (18, 12), reduce_to=5)
    assert not torch.equal(wanted, expected(image, (18, 12)))
    assert_same_pixels(seen(program, artifact, image), wanted)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_profile_is_refused_where_it_counts(program, picture, tmp_path, suffix):
    """Converting colours takes a library for it; other colours than in training would be a wrong answer."""
    plain, embedded = tmp_path / f"plain.{suffix}", tmp_path / f"embedded.{suffix}"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture.resize((24, 18)).save(plain)
    picture.resize((24, 18)).save(embedded, icc_profile=profile)
    counts = pixels_artifact(tmp_path / "counts", (18, 12), srgb=True)
    ignored = pixels_artifact(tmp_path / "ignored", (18, 12))
    assert_same_pixels(seen(program, counts, plain), expected(plain, (18, 12)), atol=2)
    assert_same_pixels(seen(program, ignored, embedded), expected(embedded, (18, 12)), atol=2)
    refused = run(program, counts, embedded)
    assert refused.returncode == 4
    assert "it embeds an ICC profile" in refused.stderr


def test_a_profile_that_libpng_does_not_take_counts_too(program, picture, tmp_path):
    """It warns, and goes on as if there were none; Python converts by it, or refuses."""
    image = tmp_path / "x.png"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture.convert("L").resize((24, 18)).save(image, icc_profile=profile)  # of RGB
    counts = pixels_artifact(tmp_path / "counts", (18, 12), srgb=True)
    ignored = pixels_artifact(tmp_path / "ignored", (18, 12))
    assert_same_pixels(seen(program, ignored, image), expected(image, (18, 12)))
    for broken in (False, True):
        if broken:  # what Python can't use, either
            picture.resize((24, 18)).save(image, icc_profile=b"no profile")
        refused = run(program, counts, image)
        assert refused.returncode == 4
        assert "it embeds an ICC profile" in refused.stderr


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_an_image_of_other_channels_is_refused(program, picture, tmp_path, suffix):
    artifact = pixels_artifact(tmp_path, (18, 12), channels=4)
    image = tmp_path / f"x.{suffix}"
    picture.resize((24, 18)).save(image)
    refused = run(program, artifact, image)
    assert refused.returncode == 4
    assert "it has 3 channels where the network takes 4" in refused.stderr


def test_an_artifact_of_format_1(program):
    """As it was written before the decoding was carried whole."""
    before = Path(__file__).parents[1] / "formats" / "2026-11"
    with (before / "run" / "predictions.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    found = answer(program, "--trust", before / "run" / "artifacts" / "torchscript", before / row["path"])
    assert list(found["probabilities"].values()) == pytest.approx(
        [float(row[f"p_{name}"]) for name in found["probabilities"]], abs=1e-3
    )  # another build of libjpeg may round otherwise


def test_the_limit_on_pixels_is_the_artifacts(program, picture, tmp_path):
    artifact = pixels_artifact(tmp_path, (18, 12), max_pixels=400)
    for side, status in ((20, 0), (21, 4)):
        picture.resize((20, side)).save(tmp_path / f"{side}.png")
        done = run(program, artifact, tmp_path / f"{side}.png")
        assert done.returncode == status
    assert "20x21 pixels are more than data.max_pixels=400" in done.stderr


def test_what_is_no_file_is_not_read(program, tmp_path):
    artifact = pixels_artifact(tmp_path, (18, 12))
    os.mkfifo(tmp_path / "pipe.png")
    for name, kind in ((tmp_path / "pipe.png", "a pipe"), ("/dev/zero", "a device or socket"), (tmp_path, "a folder")):
        done = run(program, artifact, name)
        assert (done.returncode, done.stderr) == (4, f"error: {name}: it is {kind}, not a file\n")


@pytest.mark.parametrize(
    ("start", "reason"),
    [(b"no image", "neither a PNG nor a JPEG file"), (b"\xff\xd8\xff\xe0", "there is not enough memory to read it")],
)
def test_a_huge_file_is_read_only_if_it_is_an_image(program, tmp_path, start, reason):
    """And where memory does not suffice for one, it is named."""
    image = tmp_path / "huge.jpg"
    image.write_bytes(start)
    os.truncate(image, 2**42)
    limit = partial(resource.setrlimit, resource.RLIMIT_AS, (2**38, 2**38))
    done = run(program, pixels_artifact(tmp_path, (18, 12)), image, preexec_fn=limit)
    assert (done.returncode, done.stderr) == (4, f"error: {image}: {reason}\n")


@pytest.mark.parametrize("progressive", [False, True])
def test_a_damaged_jpeg_is_read_where_python_reads_it(program, picture, tmp_path, progressive):
    artifact = pixels_artifact(tmp_path, (18, 12))
    image = tmp_path / "x.jpg"
    picture.resize((119, 83)).save(image, quality=90, progressive=progressive)  # odd: it is not reduced
    data = image.read_bytes()
    scan, end = data.index(b"\xff\xda") + 14, len(data) - 2
    middle = (scan + end) // 2
    for name, damaged, read in (
        ("padded", data[:end] + bytes(100) + data[end:], True),
        ("padded in its head", data[:20] + bytes(3) + data[20:], True),
        ("altered", data[:middle] + b"\x12\x34" + data[middle + 2 :], True),
        ("with a part cut out", data[:middle] + data[middle + 9 :], True),
        ("ended early", data[:middle] + data[end:], True),
        ("truncated", data[:middle], False),
        ("truncated at its end", data[:-5], False),
        ("truncated in its head", data[: scan - 100], False),
    ):
        image = tmp_path / f"{name}.jpg"
        image.write_bytes(damaged)
        if read:
            assert_same_pixels(seen(program, artifact, image), expected(image, (18, 12)), atol=2)
            continue
        with pytest.raises(UnreadableImageError):
            expected(image, (18, 12))
        assert run(program, artifact, image).returncode == 4, name


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg(program, picture, tmp_path, mode, channels):
    artifact = pixels_artifact(tmp_path, (18, 12), channels=channels)
    image = tmp_path / "x.jpg"
    picture.resize((36, 24)).convert(mode).save(image, quality=90)
    wanted = expected(image, (18, 12), channels=channels)
    assert_same_pixels(seen(program, artifact, image), wanted, atol=2)


@pytest.mark.parametrize(("size", "factor"), [((72, 108), 4), ((40, 60), 2), ((39, 60), 1)])
def test_a_large_jpeg_is_reduced_while_it_is_decoded(program, picture, tmp_path, size, factor):
    artifact = pixels_artifact(tmp_path, (18, 27))
    image = tmp_path / "x.jpg"
    picture.resize(size[::-1]).save(image, quality=90)
    with Image.open(image) as file:  # Pillow does it, too, when asked to
        file.draft("RGB", (size[1] // factor, size[0] // factor))
        assert file.size == (size[1] // factor, size[0] // factor)
        reduced = torch.from_numpy(np.array(file)).permute(2, 0, 1)
    wanted = geometry.apply(reduced, (18, 27), "cover").flatten().float()
    assert_same_pixels(seen(program, artifact, image), wanted, atol=2)


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 1), ("L", 3)])
def test_a_jpeg_that_is_converted_is_not_reduced(program, photos, tmp_path, mode, channels):
    image = tmp_path / "x.jpg"
    with Image.open(photos / "Plant" / "blue-periwinkle.jpg") as photo:
        photo.convert(mode).resize((144, 96)).save(image, quality=95)
    wanted = expected(image, (24, 36), channels=channels)
    assert_same_pixels(seen(program, pixels_artifact(tmp_path, (24, 36), channels=channels), image), wanted, atol=2)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_has_the_same_pixels_whoever_decodes_it(program, photos, tmp_path, mode):
    """A decoder of our own reads it, but not where it is progressive."""
    artifact = pixels_artifact(tmp_path, (18, 32), channels=len(mode))
    with Image.open(photos / "Animal/canyon-wren.jpg") as photo:
        photo = photo.convert(mode)
    found = []
    for progressive in (False, True):
        image = tmp_path / f"{progressive}.jpg"
        photo.save(image, quality=100, progressive=progressive)
        found.append(seen(program, artifact, image))
    assert torch.equal(*found)
