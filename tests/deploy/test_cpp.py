"""The C++ program answers as Python does, and says what is wrong in one line. How it reads: test_cpp_images.py."""

import json
import os
import re
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest
import torch
from deploy.checked.strangers import write
from deploy.cpp_program import answer, decoding, run

from hct_lightning import load_artifact
from hct_lightning.benchmarks.inference.profile import operators_in_cpp
from hct_lightning.benchmarks.inference.subjects import find
from hct_lightning.data.reading import geometry
from hct_lightning.data.reading.image import read_image
from hct_lightning.deploy import export_artifact, trust
from hct_lightning.deploy.artifact import digest
from hct_lightning.deploy.int8.layers import has_vnni_for_eager
from hct_lightning.deploy.runtimes import aoti, openvino, torchscript
from hct_lightning.models import HCT, FromPixels
from hct_lightning.training.memory_plan import available_bytes

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


@pytest.mark.parametrize("runtime", ["torchscript", "openvino"])
def test_fewer_at_a_time_where_memory_is_short(program, export, picture, tmp_path, runtime):
    images = [tmp_path / f"{i}.png" for i in range(3)]
    for image in images:
        picture.save(image)
    many = 2 + available_bytes(torch.device("cpu"), 1) // 2**23  # of 8 MiB each, which it takes for loading alone
    done = run(program, "--threads", str(many), "--streams", str(many), export(runtime), *images)
    said = re.fullmatch(
        rf"(\d+) images at a time, not {many}: each takes 0\.\d GiB of memory, and [\d.]+ are available\n", done.stderr
    )
    assert said, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["image"] for line in lines] == list(map(str, images))
    assert {line["threads"] for line in lines} == {many // int(said[1])}


def test_machine_code_computes_one_image_at_a_time(program, export, picture, tmp_path):
    """A package says itself how many threads a call takes. What is none stands for one: its model is not looked at yet."""
    picture.save(tmp_path / "x.png")
    other = changed(export("torchscript"), tmp_path / "other", runtime="aoti")
    done = run(program, "--threads", "2", "--streams", "2", other, tmp_path / "x.png")
    assert done.stderr.startswith("one image at a time, not 2: the code of AOTInductor's packages computes no more\n")


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
    write(failing / "model.ts", "return torch.select(torch.to(x, 6), 1, 9)")
    changed(failing, tmp_path / "signed", sha256={"model.ts": digest(failing / "model.ts")})
    done = run(program, "--trust", tmp_path / "signed", *images)
    assert (done.returncode, done.stdout) == (5, "")
    assert "failed in the TorchScript interpreter" in done.stderr


@pytest.mark.skipif(has_vnni_for_eager(), reason="on a CPU with VNNI of AVX-512 nothing saturates")
def test_int8_of_a_cpu_with_vnni_is_warned_of_elsewhere(program, int8_folder, picture, tmp_path):
    picture.save(tmp_path / "x.png")
    other = changed(int8_folder, tmp_path / "other", instruction_set="AVX512 avx512_vl avx512_vnni")
    for folder, warned in ((int8_folder, False), (other, True)):
        done = run(program, folder, tmp_path / "x.png")
        assert done.returncode == 0
        said = "was made on a CPU with avx512_vnni, which this one has not: sums of its int8 layers may saturate"
        assert (said in done.stderr) == warned  # torch, too, has a warning of its own


def changed(artifact: Path, place: Path, **fields: object) -> Path:
    other = shutil.copytree(artifact, place)
    description = json.loads((other / "artifact.json").read_text())
    (other / "artifact.json").write_text(json.dumps(description | fields))
    return other


@pytest.mark.parametrize("classes", [CLASSES[:3], [*CLASSES, "e"]])
def test_as_many_classes_as_the_model_has(program, export, picture, tmp_path, classes):
    picture.save(tmp_path / "x.png")
    done = run(program, changed(export("torchscript"), tmp_path / "other", classes=classes), tmp_path / "x.png")
    assert (done.returncode, done.stdout) == (3, "")
    assert f"gives 4 numbers an image where artifact.json names {len(classes)} classes" in done.stderr


def test_an_answer_that_is_not_finite_is_none(program, export, picture, tmp_path):
    picture.save(tmp_path / "x.png")
    infinite = changed(export("torchscript"), tmp_path / "infinite")
    write(infinite / "model.ts", "return torch.mul(torch.slice(torch.flatten(torch.to(x, 6), 1), 1, 0, 4), inf)")
    changed(infinite, tmp_path / "signed", sha256={"model.ts": digest(infinite / "model.ts")})
    done = run(program, "--trust", tmp_path / "signed", tmp_path / "x.png")
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr == f"error: {tmp_path / 'x.png'}: the network's answer is not finite\n"


def test_wrong_usage_ends_with_2(program, tmp_path):
    for args, message in {
        (): "give an artifact and at least one image",
        ("--repeat", "0", "a", "b"): "--repeat takes a positive number",
        ("a", "b", "--threads"): "--threads takes a positive number",
        ("--speed", "a", "b"): "unknown option --speed",
        ("--profile", "--streams", "2", "a", "b"): "--profile is of one image at a time",
    }.items():
        done = run(program, *args)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    assert "usage" in run(program, "--help").stdout


@pytest.mark.parametrize("count", [1, 4])
def test_answers_that_can_not_be_written_end_with_5(program, export, picture, tmp_path, count):
    images = [tmp_path / f"{i}.png" for i in range(count)]
    for image in images:
        picture.save(image)
    for args in (("--help",), (export("torchscript"), *images)):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run([program, *args], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
        assert done.returncode == 5
        assert "error: standard output can't be written: No space left on device" in done.stderr


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
    decoding = json.loads((artifact / "artifact.json").read_text())["decoding"]
    for folder, message in {
        tmp_path: "no artifact.json",
        flipped: "has changed since it was exported",
        broken: "is damaged",
        changed(artifact, tmp_path / "new", format=99): "has format 99",
        changed(artifact, tmp_path / "abacus", runtime="abacus"): "abacus is unknown",
        changed(artifact, tmp_path / "out", sha256={"model.ts": digest, "../x": digest}): "outside",
        changed(artifact, tmp_path / "up", file="../x", sha256={"../x": digest}): "outside",
        changed(artifact, tmp_path / "none", file="other.ts"): "no digest",
        changed(artifact, tmp_path / "small", decoding=decoding | {"size": [0, 128]}): "images without pixels",
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


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: {"decoding": decoding((160, 160)).as_json()}, r"the tensor .*160.* are incompatible"),
        (lambda folder: {"sha256": {"model.xml": broken(folder / "model.xml")}}, "Error parsing"),
    ],
)
def test_why_openvino_fails_is_said(program, export, picture, tmp_path, change, reason):
    """Its messages begin with where in its source they were thrown."""
    picture.save(tmp_path / "x.png")
    other = shutil.copytree(export("openvino"), tmp_path / "other")
    done = run(program, changed(other, tmp_path / "changed", **change(other)), tmp_path / "x.png")
    assert done.returncode == 5
    assert re.search(f"^error: .*{reason}", done.stderr.splitlines()[-1])


def broken(file: Path) -> str:
    file.write_bytes(file.read_bytes()[:9999])
    return digest(file)


@pytest.mark.parametrize("runtime", ["torchscript", "aoti"])
def test_a_program_has_to_be_ones_own_or_trusted(program, export, picture, tmp_path, monkeypatch, runtime):
    picture.save(tmp_path / "x.png")
    other = changed(export("torchscript"), tmp_path / "other", runtime=runtime)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    refused = run(program, other, tmp_path / "x.png")
    assert refused.returncode == 3
    assert "is a program that you have not exported on this machine" in refused.stderr
    ends = 0 if runtime == "torchscript" else 5  # it goes on, and it is no package
    assert run(program, "--trust", other, tmp_path / "x.png").returncode == ends
    trust.remember(digest(other / "model.ts"))
    assert run(program, other, tmp_path / "x.png").returncode == ends


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
