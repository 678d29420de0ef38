"""The C++ program reads, cuts, resizes and answers as Python does, and says what is wrong in one line."""

import csv
import json
import os
import shutil
import struct
import warnings
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from deploy.cpp_program import answer, assert_same_pixels, decoding, expected, pixels_artifact, run, seen
from PIL import Image, ImageCms, PngImagePlugin

from hct_lightning import load_artifact
from hct_lightning.benchmarks.inference.profile import operators_in_cpp
from hct_lightning.benchmarks.inference.subjects import find
from hct_lightning.data.reading import geometry
from hct_lightning.data.reading.image import UnreadableImageError, read_image
from hct_lightning.deploy import export_artifact, trust
from hct_lightning.deploy.artifact import digest
from hct_lightning.deploy.build_cpp import build
from hct_lightning.deploy.runtimes import aoti, openvino, torchscript
from hct_lightning.models import HCT, FromPixels

CLASSES = ["a", "b", "c", "d"]


def export_openvino_int8(network, example, folder, *, dynamic):
    from hct_lightning.deploy.int8 import openvino  # NNCF takes seconds to import

    return openvino.export(network, example, folder, dynamic=dynamic, calibration=[example], percent=100)


EXPORTERS = {
    "openvino_int8": export_openvino_int8,
    "torchscript": torchscript.export,
    "openvino": partial(openvino.export, precision="fp32"),
    "aoti": partial(aoti.export, precision="fp32"),
}


@pytest.fixture(scope="session")
def program(tmp_path_factory) -> Path:
    try:
        return build(tmp_path_factory.mktemp("cpp"))
    except ImportError as error:
        if os.environ.get("HCT_CPP") == "required":
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def picture(photos) -> Image.Image:
    with Image.open(photos / "Plant" / "blue-periwinkle.jpg") as photo:
        return photo.resize((420, 280))


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """Makes the artifact of a runtime from one network, once."""
    torch.manual_seed(0)
    network = FromPixels(HCT(), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # one batch sets the statistics, so that the answers are mixed
    network(torch.randint(0, 256, (4, 3, 192, 256), dtype=torch.uint8))
    network.eval()
    place = tmp_path_factory.mktemp("artifacts")

    def make(name: str) -> Path:
        if (place / name).exists():
            return place / name
        return export_artifact(
            name, EXPORTERS[name], network, place, spec={"classes": CLASSES, "decoding": decoding().as_json()}
        )

    return make


@pytest.mark.parametrize(
    "runtime",
    ["torchscript", "openvino", *(pytest.param(n, marks=pytest.mark.slow) for n in ("aoti", "openvino_int8"))],
)
def test_same_probabilities_as_python(program, export, runtime, picture, tmp_path):
    artifact = export(runtime)
    picture.save(tmp_path / "x.png")
    found = answer(program, artifact, tmp_path / "x.png")
    image = read_image(tmp_path / "x.png", decoding(None))
    python = load_artifact(artifact)(geometry.apply(image, (192, 256), "cover")[None])[0]
    assert list(found["probabilities"]) == CLASSES
    assert list(found["probabilities"].values()) == pytest.approx(python.tolist(), abs=1e-4)
    assert found["class"] == CLASSES[python.argmax()]
    assert python.max() < 0.99  # else every program would be right


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
    found = answer(program, before / "run" / "artifacts" / "torchscript", before / row["path"])
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


def test_times_itself_and_answers_line_by_line(program, export, picture, tmp_path):
    artifact = export("torchscript")
    picture.save(tmp_path / "x.png")
    found = answer(program, "--repeat", "5", "--threads", "1", artifact, tmp_path / "x.png")
    assert len(found["seconds"]) == 5
    assert 0 < min(found["seconds"]) <= found["median_s"] <= max(found["seconds"])
    assert found["threads"] == 1
    assert 0.05 < found["peak_gib"] < 4
    done = run(program, "--wait", artifact, tmp_path / "x.png", input="go\ngo\n")
    _, *rounds = map(json.loads, done.stdout.splitlines())
    assert len(rounds) == 2
    assert all(line["seconds"] > 0 for line in rounds)


@pytest.mark.parametrize("runtime", ["torchscript", "openvino"])
def test_operators_by_time(program, export, picture, tmp_path, runtime):
    picture.save(tmp_path / "x.png")
    artifact = export(runtime)
    found = operators_in_cpp(program, find(artifact), tmp_path / "x.png")
    times = [row["s"] for row in found]
    assert times == sorted(times, reverse=True)
    assert any("onvolution" in row["operator"] for row in found)
    assert 0 < sum(times) < 10
    with pytest.raises(RuntimeError, match=r"nowhere\.png"):
        operators_in_cpp(program, find(artifact), tmp_path / "nowhere.png")


@pytest.mark.parametrize("runtime", ["torchscript", "openvino"])
def test_several_images_at_a_time(program, export, picture, tmp_path, runtime):
    """The lines are those of one after the other, up to the first image that can't be read."""
    artifact = export(runtime)
    images = [tmp_path / f"{i}.png" for i in range(6)]
    for i, image in enumerate(images):
        picture.rotate(30 * i).save(image)
    one, several = (run(program, "--threads", "3", "--streams", streams, artifact, *images) for streams in ("1", "3"))
    for before, after in zip(one.stdout.splitlines(), several.stdout.splitlines(), strict=True):
        before, after = json.loads(before), json.loads(after)
        assert (before["image"], before["threads"], after["threads"]) == (after["image"], 3, 1)
        assert after["probabilities"] == pytest.approx(before["probabilities"], abs=1e-5)
    images[3].write_bytes(b"no image")
    done = run(program, "--streams", "3", "--threads", "3", artifact, *images)
    assert done.returncode == 4
    assert [json.loads(line)["image"] for line in done.stdout.splitlines()] == list(map(str, images[:3]))
    assert "3.png" in done.stderr


def test_a_name_that_is_not_utf8_keeps_no_other_image_waiting(program, export, picture, tmp_path):
    images = [tmp_path / name for name in (os.fsdecode(b"\xe9t\xe9.png"), "\u00e9t\u00e9.png")]
    for image in images:
        picture.save(image)
    lines = run(program, export("torchscript"), *images).stdout.splitlines()
    names = [json.loads(line)["image"] for line in lines]
    assert names == [str(tmp_path / "\ufffdt\ufffd.png"), str(images[1])]


def test_a_model_that_fails_keeps_no_other_image_waiting(program, export, picture, tmp_path):
    images = [tmp_path / f"{i}.png" for i in range(4)]
    for image in images:
        picture.save(image)
    failing = changed(export("torchscript"), tmp_path / "failing")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        module = type("Failing", (torch.jit.ScriptModule,), {})()
        module.define("def forward(self, x: Tensor) -> Tensor:\n    return x[:, 9].float()\n")
        module.save(str(failing / "model.ts"))
    changed(failing, tmp_path / "signed", sha256={"model.ts": digest(failing / "model.ts")})
    done = run(program, tmp_path / "signed", *images)
    assert (done.returncode, done.stdout) == (5, "")
    assert "failed in the TorchScript interpreter" in done.stderr


def changed(artifact: Path, place: Path, **fields: object) -> Path:
    other = shutil.copytree(artifact, place)
    description = json.loads((other / "artifact.json").read_text())
    (other / "artifact.json").write_text(json.dumps(description | fields))
    return other


def test_wrong_usage_ends_with_2(program, tmp_path):
    for args, message in {
        (): "give an artifact and at least one image",
        ("--repeat", "0", "a", "b"): "--repeat takes a positive number",
        ("a", "b", "--threads"): "--threads takes a positive number",
        ("--speed", "a", "b"): "unknown option --speed",
    }.items():
        done = run(program, *args)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    assert "usage" in run(program, "--help").stdout


def test_bad_artifacts_end_with_3(program, export, picture, tmp_path):
    picture.save(tmp_path / "x.png")
    artifact = export("torchscript")
    flipped = shutil.copytree(artifact, tmp_path / "flipped")
    model = bytearray((flipped / "model.ts").read_bytes())
    model[len(model) // 2] ^= 1
    (flipped / "model.ts").write_bytes(model)
    broken = shutil.copytree(artifact, tmp_path / "broken")
    (broken / "artifact.json").write_text('{"format": 1')
    digest = "0" * 64
    for folder, message in {
        tmp_path: "no artifact.json",
        flipped: "has changed since it was exported",
        broken: "is damaged",
        changed(artifact, tmp_path / "new", format=99): "has format 99",
        changed(artifact, tmp_path / "abacus", runtime="abacus"): "abacus is unknown",
        changed(artifact, tmp_path / "out", sha256={"model.ts": digest, "../x": digest}): "outside",
        changed(artifact, tmp_path / "none", file="other.ts"): "no digest",
    }.items():
        done = run(program, folder, tmp_path / "x.png")
        assert (done.returncode, done.stdout) == (3, ""), folder
        assert message in done.stderr
        assert done.stderr.count("\n") == 1


def test_bad_images_end_with_4(program, export, picture, tmp_path):
    artifact = export("torchscript")
    for suffix in ("png", "jpg"):
        picture.save(tmp_path / f"whole.{suffix}")
        data = (tmp_path / f"whole.{suffix}").read_bytes()
        (tmp_path / f"half.{suffix}").write_bytes(data[: len(data) // 2])
    picture.save(tmp_path / "x.bmp")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("half.png", "half.jpg", "x.bmp", "empty.png", "missing.png", "."):
        done = run(program, artifact, tmp_path / name)
        assert (done.returncode, done.stdout) == (4, ""), name
        assert str(tmp_path / name) in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("runtime", ["openvino", "aoti"])
def test_a_model_that_does_not_load_ends_with_5(program, export, picture, tmp_path, runtime):
    """An artifact that is sound by its digests but whose file is of another runtime."""
    picture.save(tmp_path / "x.png")
    other = changed(export("torchscript"), tmp_path / "other", runtime=runtime)
    done = run(program, "--trust", other, tmp_path / "x.png")
    assert done.returncode == 5
    assert done.stderr.splitlines()[-1].startswith("error: ")


def test_machine_code_has_to_be_ones_own_or_trusted(program, export, picture, tmp_path, monkeypatch):
    picture.save(tmp_path / "x.png")
    other = changed(export("torchscript"), tmp_path / "other", runtime="aoti")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert run(program, other, tmp_path / "x.png").returncode == 3
    assert "machine code that you have not compiled" in run(program, other, tmp_path / "x.png").stderr
    trust.remember(digest(other / "model.ts"))
    assert run(program, other, tmp_path / "x.png").returncode == 5  # it goes on, and it is none


@pytest.mark.parametrize(
    ("line", "suffix", "message"),
    [
        ("torch.save(x, '{0}')", ".py", "an operation on files"),
        ("torch.save(x, '{0}')", ".PY", "an operation on files"),
        ("x = torch._softmax(x.float(), 0, False)", ".py", "an operation that no network needs"),
        ("print(x)", ".py", "an operation that no network needs"),
    ],
)
def test_torchscript_that_does_more_than_compute_is_refused(program, export, picture, tmp_path, line, suffix, message):
    picture.save(tmp_path / "x.png")
    evil = changed(export("torchscript"), tmp_path / "evil")
    canary = tmp_path / "canary"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        module = type("Evil", (torch.jit.ScriptModule,), {})()
        module.define(f"def forward(self, x: Tensor) -> Tensor:\n    {line.format(canary)}\n    return x.float()\n")
        module.save(str(tmp_path / "model.ts"))
    with zipfile.ZipFile(tmp_path / "model.ts") as before, zipfile.ZipFile(evil / "model.ts", "w") as after:
        for name in before.namelist():
            after.writestr(name.removesuffix(".py") + suffix if name.endswith(".py") else name, before.read(name))
    changed(evil, tmp_path / "signed", sha256={"model.ts": digest(evil / "model.ts")})
    done = run(program, tmp_path / "signed", tmp_path / "x.png")
    assert (done.returncode, canary.exists()) == (3, False)
    assert f"is refused: its program names {message}" in done.stderr


def test_torchscript_that_inflates_is_refused(program, export, picture, tmp_path):
    picture.save(tmp_path / "x.png")
    evil = changed(export("torchscript"), tmp_path / "evil")
    size = (evil / "model.ts").stat().st_size
    with zipfile.ZipFile(evil / "model.ts", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data/bomb", bytes(2**26 + size))
    changed(evil, tmp_path / "signed", sha256={"model.ts": digest(evil / "model.ts")})
    done = run(program, tmp_path / "signed", tmp_path / "x.png")
    assert done.returncode == 3
    assert "model.ts is no TorchScript archive: its parts are said to have" in done.stderr
    with pytest.raises(ValueError, match=done.stderr.removeprefix("error: ").strip()):
        load_artifact(tmp_path / "signed")


def test_a_message_obeys_no_control_characters(program, export, picture, tmp_path):
    picture.save(tmp_path / "x.png")
    done = run(program, changed(export("torchscript"), tmp_path / "evil", runtime="\x1b[2Jx\x7f"), tmp_path / "x.png")
    assert done.returncode == 3
    assert r"error: runtime \x1b[2Jx\x7f is unknown" in done.stderr


@pytest.mark.slow
def test_code_of_another_machine_ends_with_3(program, export, picture, tmp_path):
    picture.save(tmp_path / "x.png")
    for fields, message in (
        ({"instruction_set": "AVX2"}, "compiled for 'AVX2'"),
        ({"versions": {"torch": "2.1.0"}}, "compiled with torch 2.1.0"),
    ):
        other = changed(export("aoti"), tmp_path / message[-5:], **fields)
        done = run(program, other, tmp_path / "x.png")
        assert done.returncode == 3
        assert message in done.stderr
