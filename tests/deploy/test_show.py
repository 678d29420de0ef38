"""The figures of docs/deploying.md: int8 artifacts of a model trained on scenes at 512 px."""

import json
import subprocess
import sys

import pytest

STATIC = ("torchscript_int8", "openvino_int8", "aoti_int8")

# Long: 600 scenes to train on, 2000 to compare eight artifacts on.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]


@pytest.fixture(scope="module")
def made(environment, tmp_path_factory):
    """`artifact.json` of each artifact, and the rows of the partial ones."""
    home = tmp_path_factory.mktemp("show")
    environment = {k: v for k, v in environment.items() if k != "OMP_NUM_THREADS"}

    def hct(*args):
        subprocess.run([sys.executable, "-m", "hct_lightning", *args], cwd=home, env=environment, check=True)

    hct(
        "+experiment=demo",
        "optim=adamw",
        "data.scene_size=512",
        "data.resolution=512",
        "data.train=600",
        "data.valid=2000",
        "trainer.max_epochs=7",
        "trainer.check_val_every_n_epoch=7",
        "export=[]",
        "hydra.run.dir=run",
    )
    names = "torchscript,openvino,aoti_int8_qat," + ",".join(STATIC)
    options = ("task=export", "run=run", "export.evaluation=2000", "export.calibration=128")
    hct(*options, f"export=[{names}]")
    hct(*options, "export=[openvino_int8]", "export.percentages=[50]")
    artifacts = {
        file.parent.name: json.loads(file.read_text()) for file in (home / "run" / "artifacts").glob("*/artifact.json")
    }
    partial = json.loads((home / "run" / "export" / "openvino_int8.json").read_text())
    return artifacts, partial["rows"][0]


@pytest.mark.parametrize("name", STATIC)
def test_static_int8_agrees_with_fp32(made, name):
    metrics = made[0][name]["metrics"]
    assert metrics["images"] == 2000
    assert metrics["agreement"] >= 0.99
    assert metrics["accuracy"] >= metrics["accuracy_fp32"] - 0.005
    assert metrics["int8_convolutions"] + metrics["int8_linears"] == metrics["layers"]


@pytest.mark.parametrize("runtime", ["torchscript", "openvino"])
def test_int8_is_a_third_of_fp32(made, runtime):
    artifacts, _ = made
    int8 = artifacts[f"{runtime}_int8"]["size_bytes"]
    assert int8 <= 0.32 * artifacts[runtime]["size_bytes"]


def test_qat_is_no_worse_than_calibration(made):
    artifacts, _ = made
    qat, static = (artifacts[name]["metrics"] for name in ("aoti_int8_qat", "aoti_int8"))
    assert qat["accuracy"] >= static["accuracy"]
    assert qat["sqnr_db"] >= static["sqnr_db"]


def test_half_the_layers_are_no_worse_than_all(made):
    artifacts, half = made
    assert half["accuracy"] >= artifacts["openvino_int8"]["metrics"]["accuracy"]
