"""What is hidden, what is to be said of it, and the networks that can."""

import math

import pytest
import timm
import torch
from torch import nn

from hct_lightning.models import HCT
from hct_lightning.models.masked import (
    CELL,
    PATCH,
    Decoder,
    edges_of,
    errors,
    hide,
    levels_of,
    patches_of,
    with_patches,
)


def test_every_image_hides_as_many_blocks_and_shows_the_rest_as_it_is():
    images = torch.rand(3, 2, 64, 96, generator=torch.Generator().manual_seed(0))
    drawn = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(1))
    seen, hidden = hide(images, drawn, share=0.6)
    assert hidden.shape == (3, 1, 64 // PATCH, 96 // PATCH)
    pixels = hidden.repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
    for i, image in enumerate(images):
        blocks = pixels[i, 0].unfold(0, 16, 16).unfold(1, 16, 16).float().mean(dim=(2, 3))
        assert blocks.unique().tolist() == [0, 1]  # whole blocks
        assert blocks.sum() == round(0.6 * 24)
        assert (blocks == 1).flatten()[drawn[i].flatten().argsort()[:14]].all()
        assert torch.equal(seen[i][:, ~pixels[i, 0]], image[:, ~pixels[i, 0]])
        for chan in range(2):
            assert seen[i, chan][pixels[i, 0]].unique().tolist() == [image[chan].mean().item()]


def test_one_block_at_least_is_hidden():
    _, hidden = hide(torch.rand(2, 1, 32, 32), torch.rand(2, 2, 2), share=0.01)
    assert hidden.sum(dim=(1, 2, 3)).tolist() == [4, 4]


def test_patches_are_normalised_one_by_one_and_even_ones_stay_even():
    images = torch.rand(1, 2, 16, 24, generator=torch.Generator().manual_seed(0)) * 5
    images[..., :8, :8] = 3
    found = patches_of(images).view(2, 64, 2, 3)
    for chan in range(2):
        patch = images[0, chan, 8:16, 16:24].flatten()
        expected = (patch - patch.mean()) / (patch.var(correction=0) + 0.01).sqrt()
        torch.testing.assert_close(found[chan, :, 1, 2], expected)
        assert found[chan, :, 0, 0].abs().max() < 1e-5


def test_what_is_said_of_patches_makes_an_image_again():
    images = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    hidden = torch.rand(2, 1, 4, 6, generator=torch.Generator().manual_seed(1)) < 0.5
    torch.testing.assert_close(with_patches(images, patches_of(images), hidden), images)
    grey = with_patches(images, torch.zeros(2, 3 * 64, 4, 6), hidden)
    pixels = hidden.repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3).expand_as(images)
    assert torch.equal(grey[~pixels], images[~pixels])
    assert grey[pixels].std() < 0.2 * images[pixels].std()


@pytest.mark.parametrize(("degrees", "direction"), [(0, (1, 0)), (90, (-1, 0)), (45, (0, 1)), (135, (0, -1))])
def test_edges_say_the_direction_of_strokes_whatever_the_contrast(degrees, direction):
    """Stripes whose brightness changes along `degrees`: the doubled angle, on average over the image."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    along = x * math.cos(math.radians(degrees)) + y * math.sin(math.radians(degrees))
    stripes = torch.sin(along)[None, None].repeat(1, 3, 1, 1)
    found = edges_of(stripes).unflatten(1, (3, -1))[..., 1:-1, 1:-1].mean(dim=(0, 2, 3, 4))
    assert found[0] == pytest.approx(1, abs=0.1)  # strength, relative to its mean
    assert (found[1:] / found[0]).tolist() == pytest.approx(direction, abs=0.1)
    torch.testing.assert_close(edges_of(stripes * 10), edges_of(stripes), rtol=0.05, atol=0.05)


def test_edges_are_those_of_their_cells():
    image = torch.zeros(1, 1, 32, 32)
    image[..., 13, 9] = 1  # in the cell of rows 12 to 15 and columns 8 to 11
    strength = nn.functional.pixel_shuffle(edges_of(image)[:, :4], PATCH // CELL)[0, 0]
    assert strength.argmax().item() == (12 // CELL) * (32 // CELL) + 8 // CELL


@pytest.mark.parametrize("name", ["hct", "resnet18", "convnext_atto", "efficientvit_b0", "mobilenetv4_conv_small"])
def test_networks_give_the_maps_of_their_stages(name):
    network = timm.create_model(name, num_classes=0).eval()
    levels = levels_of(network, torch.rand(1, 3, 128, 128))
    sides = [level.shape[2] for level in levels]
    assert len(levels) == len(network.feature_info) > 3
    assert sides == sorted(sides, reverse=True)
    assert not any(module._forward_hooks for module in network.modules())
    widths = [level.shape[1] for level in levels]
    patches, edges = Decoder(widths, channels=3)(levels, (16, 16))
    assert patches.shape == (1, 3 * 64, 16, 16)
    assert edges.shape == (1, 12, 16, 16)


def test_gradients_reach_every_weight_of_the_network():
    network = HCT(num_classes=0)
    levels = levels_of(network, torch.rand(2, 3, 128, 256))
    patches, edges = Decoder([16, 32, 64, 128, 256], channels=3)(levels, (16, 32))
    (patches.square().sum() + edges.square().sum()).backward()
    assert not [name for name, weight in network.named_parameters() if weight.grad is None]


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (nn.Conv2d(3, 8, 3), "does not say what its stages are"),
        (timm.create_model("test_vit", num_classes=0, img_size=128), "gives no maps"),  # b n c
        (
            timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, img_size=128, window_size=4),
            "gives no maps",
        ),  # b h w c
    ],
    ids=["convolution", "vit", "swin"],
)
def test_networks_without_maps_are_refused(network, reason):
    with pytest.raises(ValueError, match=rf"{type(network).__name__} {reason}.*HCT can"):
        levels_of(network, torch.rand(1, 3, 128, 128))


def test_errors_count_hidden_patches_alone():
    true, hidden = torch.zeros(2, 3, 2, 2), torch.tensor([[[[1, 0], [0, 0]]], [[[1, 1], [0, 0]]]], dtype=torch.bool)
    said = torch.ones(2, 3, 2, 2)
    said[0, :, 0, 0] = 2.0
    said[1, :, 1] = 50.0
    assert errors(said, true, hidden).tolist() == [4.0, 1.0]
