"""What int8 costs is measured rightly, and spent where it costs least."""

import pytest
import torch

from hct_lightning.deploy.int8.folding import fold_batch_norm
from hct_lightning.deploy.int8.sensitivity import float_layers, sensitivity


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
