"""An artifact gives the network's answers, in a fresh process, or says why it does not."""

import json
import shutil
import subprocess
import sys

import pytest
import torch

from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.deploy import export_artifact, load_artifact
from hct_lightning.deploy.runtimes import torchscript
from hct_lightning.models import HCT, FromPixels

DECODING = Decoding(channels=3, size=(192, 256), geometry="cover", max_pixels=2**30)
ABOUT = {"classes": ["a", "b", "c", "d"], "decoding": DECODING.as_json()}


def untrained() -> FromPixels:
    return FromPixels(HCT(), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = untrained()
    network(torch.randint(0, 256, (4, 3, 192, 256), dtype=torch.uint8))  # running statistics
    return network.eval()


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    place = tmp_path_factory.mktemp("artifacts")
    return export_artifact("torchscript", torchscript.export, network, place, **ABOUT)


@pytest.fixture(scope="module")
def open_folder(network, tmp_path_factory):
    place = tmp_path_factory.mktemp("open")
    return export_artifact("torchscript", torchscript.export, network, place, **ABOUT, dynamic=True)


def images(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


@pytest.mark.parametrize("shape", [(1, 3, 128, 128), (2, 3, 192, 256), (3, 3, 333, 259)])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_same_probabilities_as_eager_at_other_sizes_and_batches(network, open_folder, shape, memory):
    x = images(*shape).contiguous(memory_format=memory)
    with torch.inference_mode():
        expected = network(x).softmax(dim=1)
    torch.testing.assert_close(load_artifact(open_folder)(x), expected, rtol=0, atol=1e-5)


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


def test_description_says_what_a_server_needs(folder):
    description = json.loads((folder / "artifact.json").read_text())
    assert description["runtime"] == "torchscript"
    assert description["precision"] == "fp32"
    assert description["classes"] == ["a", "b", "c", "d"]
    assert description["input"]["min"] == description["input"]["max"] == [192, 256]
    assert description["size_bytes"] == (folder / description["file"]).stat().st_size


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (images(1, 3, 192, 255), "takes exactly"),
        (images(1, 1, 192, 256), "1 channels; this takes 3"),
        (images(3, 192, 256), "give uint8 n c h w"),
        (torch.rand(1, 3, 192, 256), "torch.float32"),
    ],
)
def test_refuses_images_that_it_does_not_take(folder, x, message):
    with pytest.raises(ValueError, match=message):
        load_artifact(folder)(x)


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
    ],
)
def test_refuses_what_it_does_not_know(folder, tmp_path, field, value, message):
    other = shutil.copytree(folder, tmp_path / "other")
    description = json.loads((other / "artifact.json").read_text())
    (other / "artifact.json").write_text(json.dumps(description | {field: value}))
    with pytest.raises(ValueError, match=message):
        load_artifact(other)


def test_not_an_artifact(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no artifact\.json"):
        load_artifact(tmp_path)


def test_a_failed_export_leaves_the_earlier_artifact(network, folder, tmp_path):
    def broken(network, example, making, *, dynamic):
        torchscript.export(network, example, making, dynamic=dynamic)
        raise RuntimeError("disk on fire")

    place = tmp_path / "artifacts"
    shutil.copytree(folder, place / "torchscript")
    with pytest.raises(RuntimeError, match="on fire"):
        export_artifact("torchscript", broken, network, place, **ABOUT)
    assert [p.name for p in place.iterdir()] == ["torchscript"]
    load_artifact(place / "torchscript")


def test_an_export_that_gives_other_answers_is_refused(network, tmp_path):
    def other(network, example, making, *, dynamic):
        torch.manual_seed(1)
        return torchscript.export(untrained(), example, making, dynamic=dynamic)

    with pytest.raises(RuntimeError, match="differs from the network"):
        export_artifact("torchscript", other, network, tmp_path, **ABOUT)
    assert not list(tmp_path.iterdir())
