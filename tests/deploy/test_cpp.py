"""The C++ program answers as Python does. How it reads: test_cpp_images.py; what it refuses: test_cpp_errors.py."""

import json
import os
import re

import pytest
import torch
from deploy.checked.strangers import write
from deploy.cpp_program import CLASSES, answer, changed, decoding, run

from hct_lightning import load_artifact
from hct_lightning.benchmarks.inference.profile import operators_in_cpp
from hct_lightning.benchmarks.inference.subjects import find
from hct_lightning.data.reading import geometry
from hct_lightning.data.reading.image import read_image
from hct_lightning.deploy.artifact import digest
from hct_lightning.deploy.int8.layers import has_vnni_for_eager
from hct_lightning.training.memory_plan import available_bytes


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
