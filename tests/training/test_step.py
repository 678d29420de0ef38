"""The step by hand is a step of training."""

import pytest
import torch
from torch import nn

from hct_lightning.models import HCT, FromPixels
from hct_lightning.training.step import TrainingStep, step_seconds


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_one_step_is_that_of_torch(precision):
    torch.manual_seed(0)
    ours, theirs = (nn.Sequential(nn.Flatten(), nn.Linear(12, 2)) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    images, labels = torch.rand(3, 3, 2, 2), torch.tensor([0, 1, 1])
    step = TrainingStep(ours, torch.optim.SGD(ours.parameters(), lr=0.1), precision=precision)
    step(images, labels)
    step(images, labels)

    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            logits = theirs(images)
        assert (logits.dtype == torch.bfloat16) == (precision == "bf16-mixed")
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
    assert torch.equal(ours[1].weight, theirs[1].weight)


def test_more_pixels_take_longer():
    network = FromPixels(HCT(), (0.5,) * 3, (0.2,) * 3).to(memory_format=torch.channels_last)
    options = {"channels": 3, "device": torch.device("cpu"), "precision": "32-true"}
    assert 0 < step_seconds(network, side=128, **options) < step_seconds(network, side=768, **options)
