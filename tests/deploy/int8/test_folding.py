"""Folding BatchNorm changes no answer."""

import pytest
import torch
from torch import nn

from hct_lightning.deploy.int8.folding import fold_batch_norm, fold_first_activation, fold_normalisation, fold_sums
from hct_lightning.models import HCT, FromPixels


def test_folding_keeps_the_answers(network, images):
    folded = fold_batch_norm(network)
    before = sum(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())
    after = sum(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    assert before - after == 6
    with torch.inference_mode():
        for x in images:
            torch.testing.assert_close(folded(x), network(x), rtol=1e-4, atol=1e-4)


def stem_map(network: FromPixels, pixels: torch.Tensor) -> torch.Tensor:
    """What the first block's convolutions take."""
    hct = network.network
    block = hct.stages[0][0]
    with torch.inference_mode():
        return block.act1(block.bn1(hct.stem(network.normalise(pixels, torch.float32))))


@pytest.mark.parametrize("negative", [False, True], ids=["", "negative"])
@pytest.mark.parametrize("size", [(128, 128), (131, 161), (130, 159)])
def test_the_stem_takes_pixels_and_the_border_is_the_mean(network, size, negative):
    """Where the mean is a whole number the border is the network's own, else off by half a grey level at most."""
    pixels = torch.randint(200, 256, (2, 3, *size), dtype=torch.uint8)  # far from the mean, as the border is not
    for mean, tolerance in (([100 / 255, 128 / 255, 130 / 255], 1e-4), ([0.485, 0.456, 0.406], None)):
        wanted = fold_batch_norm(FromPixels(network.network, mean, [0.25, 0.2, 0.3]))
        if negative:
            wanted.network.stages[0][0].bn1.weight.data[3] *= -1
        folded = fold_batch_norm(wanted)
        fold_first_activation(folded)
        assert fold_normalisation(folded)
        assert isinstance(folded.network.stem.pool, nn.MaxPool2d) == negative
        assert folded.scale.tolist() == [1, 1, 1]
        assert folded.offset.equal(folded.offset.round())
        error = (stem_map(folded, pixels) - stem_map(wanted, pixels)).abs()
        assert error[..., 2:-2, 2:-2].max() < 1e-4
        half = 0.5 * folded.network.stem.conv.weight.abs().sum(dim=(1, 2, 3))
        if negative:
            half *= 10  # the BatchNorm comes after it
        assert (error.amax(dim=(0, 2, 3)) <= (half if tolerance is None else tolerance)).all()


def test_only_hcts_stem_is_folded(network, small):
    for other in (small, FromPixels(small, [0.5] * 3, [0.25] * 3)):
        fold_first_activation(other)
        assert not fold_normalisation(other)
    far = FromPixels(network.network, [-0.5, 0.5, 0.5], [0.25] * 3)
    assert not fold_normalisation(far)
    assert far.scale[0] < 1, "and left as it is"


@pytest.mark.parametrize("conv_stages", [2, 3, 5])
@pytest.mark.parametrize("blocks", [(2, 2, 2, 2, 2), (1, 3, 1, 1, 1)])
def test_sums_that_are_scaled_beforehand_keep_the_answers(conv_stages, blocks):
    network = FromPixels(HCT(conv_stages=conv_stages, blocks=blocks), [0.5] * 3, [0.25] * 3).train()
    pixels = torch.randint(0, 256, (2, 3, 160, 192), dtype=torch.uint8)
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.4, 2)
        nn.init.normal_(norm.bias)
    network(pixels)
    wanted = fold_batch_norm(network)
    folded = fold_batch_norm(network)
    fold_sums(folded)
    local = wanted.network.local_stages
    assert [isinstance(stage[0].bn1, nn.Identity) for stage in folded.network.stages[1:]] == [
        i < local - 1 for i in range(4)
    ]
    with torch.inference_mode():
        torch.testing.assert_close(folded(pixels), wanted(pixels), rtol=1e-4, atol=1e-4)
        maps = []
        for it in (wanted, folded):
            x = it.network.stem(it.normalise(pixels, torch.float32))
            for stage in it.network.stages[:local]:
                x = stage(x)
            maps.append(x)
    torch.testing.assert_close(*maps, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("channel", "weight", "moved"), [(3, -0.5, True), (3, 0.1, False), (..., 0.0, False)])
def test_a_batch_norm_whose_weights_are_far_apart_stays(network, small, channel, weight, moved):
    wanted, pixels = fold_batch_norm(network), torch.randint(0, 256, (1, 3, 128, 128), dtype=torch.uint8)
    wanted.network.stages[1][0].bn1.weight.data[channel] = weight
    folded = fold_batch_norm(wanted)
    fold_sums(folded)
    assert isinstance(folded.network.stages[1][0].bn1, nn.Identity) == moved
    assert (folded.network.stages[0][0].shortcut.bias is not None) == moved
    with torch.inference_mode():
        torch.testing.assert_close(folded(pixels), wanted(pixels), rtol=1e-4, atol=1e-4)
    fold_sums(small)
