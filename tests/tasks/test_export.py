"""Artifacts of a finished run, through the real command line."""

import shutil

import pytest
import torch

from hct_lightning import load_artifact
from hct_lightning.training.checkpoints import load_network


def test_export_again_with_open_size(cli, trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    shutil.rmtree(run / "artifacts")
    done = cli("task=export", f"run={run}", "export=[torchscript]", "export.dynamic=true", cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == str(run / "artifacts" / "torchscript")
    artifact = load_artifact(run / "artifacts" / "torchscript")
    network, _ = load_network(run / "checkpoints" / "best.ckpt")
    for shape in ((1, 3, 128, 128), (3, 3, 200, 333)):
        images = torch.randint(0, 256, shape, dtype=torch.uint8)
        with torch.inference_mode():
            torch.testing.assert_close(artifact(images), network(images).softmax(1), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("export=[]",), "names nothing to make"),
        pytest.param(
            ("export.percentages=[50]", "export.evaluation=0"), "export.percentages measures", marks=pytest.mark.slow
        ),
        (("data.resolution=256",), "data.resolution=[256, 256]: an artifact takes images as its network was trained"),
        pytest.param(("data.window=[0,9]",), "data.window=[0, 9]: an artifact takes", marks=pytest.mark.slow),
        (("data.mean=[0.1,0.1,0.1]",), "data.mean=[0.1, 0.1, 0.1]: the network was trained with"),
        (("export=[torchscript]", "export.dynamic=true", "data.resolution=128"), None),
    ],
)
def test_export_without_images(cli, trained, tmp_path, args, message):
    run = tmp_path / "run"
    shutil.copytree(trained, run, ignore=shutil.ignore_patterns("artifacts"))
    if message:
        done = cli("task=export", f"run={run}", *args, cwd=tmp_path, status=1)
        assert message in done.stderr
    else:  # nothing asks for images, so the data need not be there
        away = ("data=folder", "data.root=gone", "export.evaluation=0")
        cli("task=export", f"run={run}", *args, *away, cwd=tmp_path)
