"""The C++ program says what is wrong in one line, and ends with a code of its own."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from deploy.checked.strangers import write
from deploy.cpp_program import CLASSES, changed, decoding, run

from hct_lightning.deploy import trust
from hct_lightning.deploy.artifact import digest


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
        (lambda folder: {"sha256": {"model.xml": broken(folder / "model.xml")}}, r"at offset \d+$"),
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
        ({"instruction_set": "AVX1"}, "compiled for 'AVX1'"),
        ({"versions": {"torch": "2.1.0"}}, "compiled with torch 2.1.0"),
    ):
        other = changed(export("aoti"), tmp_path / message[-5:], **fields)
        done = run(program, other, tmp_path / "x.png")
        assert done.returncode == 3
        assert message in done.stderr
