"""The first stages by an artifact: what streams through it is what the artifact gives for the whole image."""

import json
from functools import partial

import pytest
import torch

from hct_lightning.deploy.export import export_artifact
from hct_lightning.models import HCT, FromPixels
from hct_lightning.models.streaming import InMemory, StreamedHCT
from hct_lightning.training.first_stages import FirstStages


def pixels(h, w):
    return torch.randint(0, 256, (1, h, w, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)).permute(
        0, 3, 1, 2
    )


def hct(seed=0, **options) -> FromPixels:
    torch.manual_seed(seed)
    return FromPixels(HCT(**options), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)).eval()


SPEC = {
    "classes": list("abcd"),
    "decoding": {"channels": 3, "size": [192, 192]},
}


@pytest.mark.slow
@pytest.mark.parametrize("conv_stages", [2, 3])
def test_tiles_by_an_int8_artifact_are_the_whole_by_it(tmp_path, conv_stages):
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    from hct_lightning.deploy.int8 import openvino as int8

    network = hct(conv_stages=conv_stages)
    calibration = [pixels(192, 192)]
    folder = export_artifact(
        "openvino_int8",
        partial(int8.export, percent=100),
        network,
        tmp_path,
        spec=SPEC,
        calibration=calibration,
    )
    first, image = FirstStages(folder, network), pixels(431, 377)
    assert {"model.xml", "model.bin"} <= first.sha256.keys(), "other weights are another artifact"
    whole = StreamedHCT(network, tile=1024, first=first(1))
    tiles = StreamedHCT(network, tile=128, workers=2, first=first(2))
    source = InMemory(image[0])
    torch.testing.assert_close(tiles.first_stages(source), whole.first_stages(source), rtol=0, atol=1e-4)
    torch.testing.assert_close(tiles(source), whole(source), rtol=0, atol=1e-4)
    exact = StreamedHCT(network).first_stages(source)
    assert 0 < (whole.first_stages(source) - exact).norm() / exact.norm() < 0.1
    with pytest.raises(ValueError, match="was made of other weights"):
        FirstStages(folder, hct(1, conv_stages=conv_stages))


def test_others_are_refused(trained, tmp_path):
    folder = trained / "artifacts" / "torchscript"
    with pytest.raises(ValueError, match=r"it is of torchscript in fp32, .* make export=\[openvino_int8\]"):
        FirstStages(folder, hct())
    about = json.loads((folder / "artifact.json").read_text())
    (tmp_path / "artifact.json").write_text(json.dumps(about | {"runtime": "openvino"}))
    with pytest.raises(ValueError, match="it is of openvino in fp32"):
        FirstStages(tmp_path, hct())
