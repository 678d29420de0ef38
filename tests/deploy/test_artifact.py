"""An artifact gives the network's answers, in a fresh process, or says why it does not."""

import contextlib
import json
import shutil
import subprocess
import sys

import pytest
import torch

from hct_lightning.deploy import load_artifact
from hct_lightning.deploy.artifact import digest, instruction_set
from hct_lightning.deploy.runtimes import torchscript


def images(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def test_serves_in_a_fresh_process(network, folder, tmp_path):
    x = images(1, 3, 192, 256)
    torch.save(x, tmp_path / "x.pt")
    code = (
        "import sys, torch; from hct_lightning import load_artifact\n"
        "x = torch.load(sys.argv[2], weights_only=True)\n"
        "print(load_artifact(sys.argv[1])(x)[0].tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, folder, tmp_path / "x.pt"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    with torch.inference_mode():
        expected = network(x).softmax(dim=1)[0].tolist()
    assert json.loads(done.stdout) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("option", "runtime", "kept"),
    [(None, "torchscript", True), (None, "openvino", False), (False, "torchscript", False), (True, "openvino", True)],
)
def test_memory_is_kept_where_it_helps_unless_told(folder, monkeypatch, tmp_path, option, runtime, kept):
    """Most of a call of TorchScript's is page faults otherwise; OpenVINO has memory of its own."""
    asked = []
    monkeypatch.setattr("hct_lightning.deploy.artifact.runtime.keep_memory", lambda: asked.append(True))
    other = shutil.copytree(folder, tmp_path / "other")
    description = json.loads((other / "artifact.json").read_text())
    (other / "artifact.json").write_text(json.dumps(description | {"runtime": runtime}))
    with contextlib.suppress(ValueError, ImportError):  # the model file is TorchScript's
        load_artifact(other, keep_memory=option)
    assert bool(asked) == kept


def test_no_more_streams_than_threads(folder):
    with pytest.raises(ValueError, match=r"streams=3 is more than there are threads \(2\); give 2 or fewer"):
        load_artifact(folder, threads=2, streams=3)


@pytest.mark.parametrize("options", [{"threads": 0}, {"streams": 0}, {"threads": 2, "streams": -1}, {"threads": "2"}])
def test_at_least_one_thread_and_one_stream(folder, options):
    with pytest.raises(ValueError, match=r"(threads|streams)=(0|-1|'2'): give a whole number of at least 1"):
        load_artifact(folder, **options)


def test_no_images_have_no_answers(folder):
    assert load_artifact(folder)(images(0, 3, 192, 256)).shape == (0, 4)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (images(1, 3, 192, 255), "takes exactly"),
        (images(1, 1, 192, 256), "1 channels; this takes 3"),
        (images(3, 192, 256), "give uint8 n c h w"),
        (torch.rand(1, 3, 192, 256), "torch.float32"),
        (images(1, 3, 192, 256).numpy(), "images are ndarray; give a tensor, as torch.from_numpy"),
        (images(1, 3, 192, 256).to("meta"), r"on meta, and an artifact computes on the CPU; give images\.cpu\(\)"),
    ],
)
def test_refuses_images_that_it_does_not_take(folder, x, message):
    with pytest.raises(ValueError, match=message):
        load_artifact(folder)(x)


@pytest.mark.parametrize("classes", [["a", "b", "c"], ["a", "b", "c", "d", "e"]])
def test_as_many_classes_as_the_model_has(folder, tmp_path, classes):
    """Its answers would stand under other names."""
    other = shutil.copytree(folder, tmp_path / "other")
    description = json.loads((other / "artifact.json").read_text())
    (other / "artifact.json").write_text(json.dumps(description | {"classes": classes}))
    with pytest.raises(
        ValueError, match=rf"gives \(1, 4\) for 1 images where artifact\.json names {len(classes)} classes"
    ):
        load_artifact(other)(images(1, 3, 192, 256))


def test_open_size_has_a_least_one(open_folder):
    with pytest.raises(ValueError, match="at least"):
        load_artifact(open_folder)(images(1, 3, 127, 400))


def test_a_changed_byte_is_noticed(folder, tmp_path):
    changed = shutil.copytree(folder, tmp_path / "changed")
    model = changed / "model.ts"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    with pytest.raises(ValueError, match="has changed since it was exported"):
        load_artifact(changed)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("format", 99, "this version reads 2"),
        ("runtime", "abacus", "'abacus' is unknown"),
        ("file", "../model.ts", "gives no digest"),
        ("sha256", {"../model.ts": "", "model.ts": ""}, "outside its folder"),
        ("sha256", {"/etc/passwd": "", "model.ts": ""}, "outside its folder"),
        ("sha256", ["model.ts"], "is damaged"),
        ("classes", "abcd", "is damaged"),
        ("classes", [1, 2], "is damaged"),
        ("input", {"channels": "3"}, "is damaged"),
        ("input", None, "is damaged"),
        ("versions", [], "is damaged"),
    ],
)
def test_refuses_what_it_does_not_know(folder, tmp_path, field, value, message):
    other = shutil.copytree(folder, tmp_path / "other")
    description = json.loads((other / "artifact.json").read_text())
    (other / "artifact.json").write_text(json.dumps(description | {field: value}))
    with pytest.raises(ValueError, match=message):
        load_artifact(other)


def test_why_a_model_does_not_load_is_said(folder, tmp_path):
    """OpenVINO says it in the third line of its message, and torch in the first."""
    pytest.importorskip("openvino")
    for runtime, reason in (("openvino", "Unable to read the model: "), ("torchscript", "is no TorchScript archive: ")):
        other = shutil.copytree(folder, tmp_path / runtime)
        (other / "model.ts").write_bytes(b"no model")
        description = json.loads((other / "artifact.json").read_text())
        changed = {"runtime": runtime, "sha256": {"model.ts": digest(other / "model.ts")}}
        (other / "artifact.json").write_text(json.dumps(description | changed))
        with pytest.raises(ValueError, match=rf"model\.ts (can't be loaded: )?{reason}"):
            load_artifact(other)


def test_memory_that_is_short_is_no_fault_of_the_artifact(folder, monkeypatch):
    def load(*args: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(torchscript, "load", load)
    with pytest.raises(MemoryError):
        load_artifact(folder)


@pytest.mark.parametrize(
    ("has", "extras"),
    [
        ({"avx2": True, "sse4_1": True, "avx_vnni": True, "avx512_f": False, "cpu_name": "x"}, ["avx_vnni"]),
        ({"neon": True, "sve": True, "sme": False, "architecture": "aarch64", "l2_cache_size": 1}, ["neon", "sve"]),
    ],
)
def test_the_instruction_set_of_any_cpu(monkeypatch, has, extras):
    """Machine code for SVE must not be taken for that of a CPU without it."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert instruction_set().split()[1:] == extras


def test_a_description_of_any_depth_is_damaged(tmp_path):
    (tmp_path / "artifact.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"artifact\.json is damaged"):
        load_artifact(tmp_path)


def test_not_an_artifact(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no artifact\.json"):
        load_artifact(tmp_path)
