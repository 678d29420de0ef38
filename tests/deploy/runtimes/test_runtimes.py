"""Every artifact in a fresh process: the same answers from every runtime, or a clear refusal."""

import itertools
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from hct_lightning import load_artifact
from hct_lightning.data.sources import drawing
from hct_lightning.deploy.int8.layers import sqnr_db
from hct_lightning.training.checkpoints import load_network

QUICK = ("torchscript", "torchscript_int8", "openvino_int8")
OTHERS = (
    "openvino",
    "onnx",
    "torchscript_int8_dynamic",
    "openvino_bf16",
    "aoti",
    "aoti_bf16",
    "aoti_int8",
    "timm",
)  # up to a minute each
# Noise of the logits against the network's, in dB, that a precision may make at least.
LEAST_DB = {"fp32": 80, "bf16": 25, "int8": 15}

SERVE = """
import json, sys, torch
from hct_lightning import load_artifact
images = torch.load(sys.argv[1], weights_only=True)
print(json.dumps({
    folder: load_artifact(folder).logits(images).tolist() for folder in sys.argv[2:]
}))
"""


def exported(cli, trained, home, names):
    """Artifacts of the small run by the command line, and their logits from a fresh process."""
    run = home / "run"
    shutil.copytree(trained, run, ignore=shutil.ignore_patterns("artifacts"))
    done = cli(
        "task=export",
        f"run={run}",
        f"export=[{','.join(names)}]",
        "export.calibration=8",
        "export.evaluation=10",
        cwd=home,
    )
    folders = {name: run / "artifacts" / name for name in names}
    assert done.stdout.splitlines()[-len(names) :] == [str(f) for f in folders.values()]
    # Scenes that the run has not seen: int8's ranges are those of scenes, not of noise.
    images = torch.stack(
        [torch.from_numpy(drawing.draw(0, 1000 + i, 128)).permute(2, 0, 1) for i in range(3)]
    ).contiguous()
    torch.save(images, home / "images.pt")
    served = subprocess.run(
        [sys.executable, "-c", SERVE, home / "images.pt", *folders.values()],
        capture_output=True,
        text=True,
        check=True,
        cwd=home,
    )
    logits = json.loads(served.stdout.splitlines()[-1])
    network, _ = load_network(run / "checkpoints" / "best.ckpt")
    with torch.inference_mode():
        exact = network(images)
    return folders, exact, {name: torch.tensor(logits[str(f)]) for name, f in folders.items()}


@pytest.fixture(scope="module")
def quick(cli, trained, tmp_path_factory):
    return exported(cli, trained, tmp_path_factory.mktemp("quick"), QUICK)


@pytest.fixture(scope="module")
def others(cli, trained, tmp_path_factory):
    return exported(cli, trained, tmp_path_factory.mktemp("others"), OTHERS)


def check_answers(made):
    folders, exact, logits = made
    precision = {
        name: json.loads((folder / "artifact.json").read_text())["precision"] for name, folder in folders.items()
    }
    for name, given in logits.items():
        assert sqnr_db(exact, given) > LEAST_DB[precision[name]], name
    for a, b in itertools.combinations(logits, 2):  # two noises may add up
        least = min(LEAST_DB[precision[a]], LEAST_DB[precision[b]]) - 6
        assert sqnr_db(logits[a], logits[b]) > least, (a, b)


def check_callers(made, home):
    """Two threads call each artifact at once, and have the answers of one that calls alone."""
    folders, _, _ = made
    images = torch.load(home / "images.pt", weights_only=True)
    threads = torch.get_num_threads()
    for name, folder in folders.items():
        artifact = load_artifact(folder, threads=2, streams=2)
        assert artifact.streams == (1 if name.startswith("aoti") else 2)
        if artifact.streams == 2:
            with ThreadPoolExecutor(2) as pool:
                found = torch.cat(list(pool.map(artifact.logits, 4 * images.split(1))))
            # One image a call for both: dynamic int8 takes its ranges from all images of a call.
            alone = torch.cat(list(map(artifact.logits, images.split(1))))
            assert sqnr_db(alone.repeat(4, 1), found) > 60, name
    torch.set_num_threads(threads)


def check_metrics(folders):
    for name, folder in folders.items():
        description = json.loads((folder / "artifact.json").read_text())
        files = [p for p in folder.iterdir() if p.name not in ("artifact.json", "README.md")]
        assert description["size_bytes"] == sum(p.stat().st_size for p in files)
        assert description["sha256"].keys() == {p.name for p in files}
        metrics = description["metrics"]
        assert metrics["images"] == 10
        assert 0 <= metrics["accuracy"] <= 1
        assert metrics["agreement"] >= 0.8, name
        assert metrics["time_ms"] > 0


def int8_layers(folder):
    metrics = json.loads((folder / "artifact.json").read_text())["metrics"]
    return metrics["int8_convolutions"], metrics["int8_linears"], metrics["layers"]


def test_same_answers_from_every_runtime(quick):
    check_answers(quick)
    check_callers(quick, quick[0]["torchscript"].parents[2])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_same_answers_from_the_slower_ones(quick, others):
    check_callers(others, others[0]["onnx"].parents[2])
    check_metrics(others[0])
    assert int8_layers(others[0]["aoti_int8"]) == (22, 17, 39)
    assert int8_layers(others[0]["torchscript_int8_dynamic"]) == (0, 17, 39)
    folders, exact, logits = others
    check_answers(({**quick[0], **folders}, exact, {**quick[2], **logits}))


def test_artifacts_say_what_they_cost_and_give(quick):
    check_metrics(quick[0])


def test_every_layer_really_is_int8(quick):
    folders, _, _ = quick
    assert int8_layers(folders["torchscript_int8"]) == (22, 17, 39)
    # Where not all heads fit into one product, queries, keys and values are a layer for each half of them. Without
    # VNNI all of attention's are convolutions.
    assert int8_layers(folders["openvino_int8"]) in [(22, 23, 45), (44, 1, 45)]


@pytest.mark.parametrize("runtime", ["torchscript", pytest.param("openvino", marks=pytest.mark.slow)])
def test_int8_is_a_third_of_fp32(quick, runtime, request):
    folders = quick[0] | (request.getfixturevalue("others")[0] if runtime == "openvino" else {})
    size = {
        name: json.loads((folders[name] / "artifact.json").read_text())["size_bytes"]
        for name in (runtime, f"{runtime}_int8")
    }
    assert size[f"{runtime}_int8"] <= 0.32 * size[runtime]


def test_a_changed_byte_in_any_file_is_noticed(quick, tmp_path):
    folders, _, _ = quick
    for name, folder in folders.items():
        changed = shutil.copytree(folder, tmp_path / name)
        for file in (p for p in changed.iterdir() if p.name not in ("artifact.json", "README.md")):
            whole = file.read_bytes()
            for at in (0, len(whole) // 2, len(whole) - 1):
                file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
                with pytest.raises(ValueError, match=f"{file.name} has changed"):
                    load_artifact(changed)
            file.unlink()
            with pytest.raises(ValueError, match=f"{file.name} has changed"):
                load_artifact(changed)
            file.write_bytes(whole)
        load_artifact(changed)
