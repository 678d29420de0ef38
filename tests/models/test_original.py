"""Checkpoints of the published HCT; its answers from them are in test_hct.py."""

import json
from pathlib import Path

import pytest
import torch

from hct_lightning.models import HCT, load_original_state_dict
from hct_lightning.models.original import original_key

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    """A checkpoint in the published layout."""
    return {original_key(key, 3): value for key, value in HCT().state_dict().items()}


def test_keys_and_shapes_are_the_published_ones(state):
    published = json.loads((GOLDEN / "hct_state_dict_keys.json").read_text())
    assert {key: list(value.shape) for key, value in state.items()} == published


def test_a_checkpoint_that_does_not_fit_names_every_key(state):
    model = HCT()
    del state["final_bn.weight"]
    state["extra.weight"] = torch.zeros(1)
    state["classifier.weight"] = torch.zeros(7, 256)
    before = model.head.weight.clone()
    with pytest.raises(ValueError, match="does not fit") as error:
        load_original_state_dict(model, state)
    for part in ("missing: final_bn.weight", "surplus: extra.weight", "classifier.weight is (7, 256)"):
        assert part in str(error.value)
    assert torch.equal(model.head.weight, before)


def test_a_checkpoint_saved_under_ddp_loads(state):
    model = HCT()
    load_original_state_dict(model, {f"module.{key}": value for key, value in state.items()})
    ours = model.state_dict()
    assert all(torch.equal(ours[key], state[original_key(key, 3)]) for key in ours)
