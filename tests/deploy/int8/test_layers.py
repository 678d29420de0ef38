"""What int8 may cost is counted and measured rightly."""

import pytest
import torch

from hct_lightning.deploy.int8.layers import engine, layers, sqnr_db


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


@pytest.mark.parametrize(
    ("supported", "engines"), [(["none", "qnnpack"], {"qnnpack"}), (["x86", "onednn"], {"x86", "onednn"})]
)
def test_the_engine_is_one_that_the_machine_has(supported, engines):
    assert engine(supported) in engines
