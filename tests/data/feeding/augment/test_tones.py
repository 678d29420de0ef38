import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from hct_lightning.data.feeding.augment.device import look_up
from hct_lightning.data.feeding.augment.tones import SAMPLED, tone_table


def noise(channels: int) -> torch.Tensor:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(60, 180, (8, 8, channels), np.uint8))
    # The sampled pixels have the mean of all.
    return pixels.repeat_interleave(SAMPLED, 0).repeat_interleave(SAMPLED, 1)


def change_tones(image: torch.Tensor, **how) -> torch.Tensor:
    look_up(image, tone_table(image, **how), changed := torch.empty_like(image))
    return changed


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.3])
def test_as_torchvision_does_it(factor):
    image = noise(1)
    planes = image.permute(2, 0, 1)
    for ours, theirs in (
        (change_tones(image, brightness=factor), tv.adjust_brightness(planes, factor)),
        (change_tones(image, contrast=factor), tv.adjust_contrast(planes, factor)),
    ):
        assert (ours.permute(2, 0, 1).int() - theirs.int()).abs().max() <= 1  # which cuts off, and does not round


@pytest.mark.parametrize("channels", [2, 3, 5])
def test_each_channel_has_its_factor(channels):
    image, factors = noise(channels), [0.5 + 0.2 * i for i in range(channels)]
    want = (image * torch.tensor(factors)).round().clamp(0, 255)
    assert (change_tones(image, colour=factors) - want).abs().max() <= 1
    assert change_tones(image, colour=factors).dtype == torch.uint8


def test_nothing_changes_at_ones():
    image = noise(3)
    assert torch.equal(change_tones(image, colour=[1.0, 1.0, 1.0]), image)
