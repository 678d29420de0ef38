"""What int8 costs is measured rightly, and spent where it costs least."""

import json
import shutil

import pytest
import torch

from hct_lightning.deploy.int8.folding import fold_batch_norm
from hct_lightning.deploy.int8.layers import layers, sqnr_db
from hct_lightning.deploy.int8.sensitivity import float_layers, sensitivity
from hct_lightning.models import HCT, FromPixels


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = FromPixels(HCT(), [0.5] * 3, [0.25] * 3)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # not the trivial statistics
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    network(torch.randint(0, 256, (4, 3, 128, 128), dtype=torch.uint8))
    return network.eval()


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 256, (1, 3, 128, 160), dtype=torch.uint8, generator=generator) for _ in range(3)]


def test_a_hundredth_of_noise_is_40_db():
    x = torch.randn(1000)
    noise = torch.randn(1000)
    noise *= 0.01 * x.norm() / noise.norm()
    assert sqnr_db(x, x + noise) == pytest.approx(40, abs=1e-2)
    assert sqnr_db(x, x) > 200


def test_every_convolution_and_linear_is_a_layer(network):
    found = layers(network)
    assert len(found) == 39  # 1 stem, 5 shortcuts, 12 + 4 3x3 in the blocks; 16 in attention, head
    assert sum(isinstance(m, torch.nn.Linear) for m in found.values()) == 17


def test_folding_keeps_the_answers(network, images):
    folded = fold_batch_norm(network)
    before = sum(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())
    after = sum(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    assert before - after == 6
    with torch.inference_mode():
        for x in images:
            torch.testing.assert_close(folded(x), network(x), rtol=1e-4, atol=1e-4)


def test_a_layer_with_an_outlier_is_the_most_sensitive(network, images):
    """One channel of 5000 leaves the others of its tensor hardly any of the 256 steps."""
    spoilt = fold_batch_norm(network)
    block = spoilt.network.stages[2][1]
    block.bn1.weight.data[3] *= 5000
    block.bn1.bias.data[3] *= 5000
    block.conv1.weight.data[:, 3] /= 5000
    ranked = list(sensitivity(spoilt, images))
    assert ranked[-1] == "network.stages.2.1.conv1"
    assert len(ranked) == 39
    with torch.inference_mode():  # measured on a copy
        torch.testing.assert_close(spoilt(images[0]), network(images[0]), rtol=1e-2, atol=1e-2)


def test_a_percentage_spares_the_most_sensitive(network, images):
    ranked = list(sensitivity(network, images))
    assert float_layers(network, images, 100) == set()
    assert float_layers(network, images, 0) == set(ranked)
    assert float_layers(network, images, 50) == set(ranked[20:])


@pytest.mark.parametrize("percent", [-1, 101])
def test_refuses_other_percentages(network, images, percent):
    with pytest.raises(ValueError, match="0 to 100"):
        float_layers(network, images, percent)


def test_accuracy_size_and_time_against_the_percentage(cli, trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run, ignore=shutil.ignore_patterns("artifacts"))
    done = cli(
        "task=export",
        f"run={run}",
        "export=[torchscript_int8]",
        "export.percentages=[0,50,100]",
        "export.calibration=4",
        "export.evaluation=10",
        cwd=tmp_path,
    )
    result = json.loads((run / "export" / "torchscript_int8.json").read_text())
    int8 = [row["int8_convolutions"] + row["int8_linears"] for row in result["rows"]]
    assert int8 == [0, 20, 39]
    sizes = [row["size_bytes"] for row in result["rows"]]
    assert sizes == sorted(sizes, reverse=True)
    assert len(result["sensitivity"]) == 39
    figure = run / "export" / "torchscript_int8.png"
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert done.stdout.splitlines()[-1] == str(figure)
    assert not (run / "artifacts").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("export=[]",), "names nothing to make"),
        (("export.percentages=[50]", "export.evaluation=0"), "export.percentages measures"),
        (("export=[openvino]", "export.dynamic=true", "data.resolution=128"), None),
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
