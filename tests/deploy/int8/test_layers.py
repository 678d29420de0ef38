"""What int8 may cost is counted and measured rightly."""

import pytest
import torch

from hct_lightning.deploy.int8.layers import engine, has_vnni, layers, sqnr_db


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


@pytest.mark.parametrize(
    ("has", "compiled", "chosen"),
    [
        ({"avx2": True}, False, "x86"),
        ({"avx2": True, "avx_vnni": True}, True, "x86"),
        ({"avx2": True, "avx512_vnni": True}, True, "onednn"),
    ],
)
def test_eager_layers_have_8_bits_by_vnni_of_avx_512_alone(monkeypatch, has, compiled, chosen):
    """By any other PyTorch packs them for FBGEMM, whose sums of 16 bits saturate."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert has_vnni() == compiled
    assert engine(["x86", "onednn"]) == chosen
