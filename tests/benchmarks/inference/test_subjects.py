"""What is measured: an artifact, a checkpoint or a network of timm."""

from pathlib import Path

import pytest
import torch

from hct_lightning.benchmarks.inference.subjects import find, load

RUN = Path(__file__).parents[2] / "formats" / "2026-11" / "run"


@pytest.mark.parametrize(
    ("where", "kind"),
    [(RUN / "artifacts" / "torchscript", "artifact"), (RUN / "checkpoints" / "best.ckpt", "checkpoint")],
    ids=["artifact", "checkpoint"],
)
def test_an_artifact_and_its_checkpoint_give_the_same(where, kind):
    model = find(where)
    assert (model.kind, model.classes) == (kind, ("dots", "grid", "rings", "stripes"))
    probabilities, facts = load(model, precision="32-true")
    assert facts["precision"] == "fp32"
    assert facts["size_bytes"] > 0
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8, generator=generator)
    other, _ = load(find(RUN / "checkpoints" / "best.ckpt"), precision="32-true")
    torch.testing.assert_close(probabilities(images), other(images), rtol=0, atol=1e-4)
    assert model.takes((128, 128))
    assert model.takes((128, 192)) == (kind == "checkpoint")


def test_a_network_of_timm_is_found_by_its_name():
    model = find("resnet18")
    assert (model.kind, model.decoding.channels) == ("timm", 3)
    with pytest.raises(ValueError, match=r"nowhere is no folder with an artifact\.json, no checkpoint"):
        find("nowhere")
