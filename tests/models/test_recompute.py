"""Recomputing changes what is kept for the backward pass, and nothing else."""

import pytest
import timm
import torch
from torch import nn

from hct_lightning.benchmarks.harness.kept import kept_mib
from hct_lightning.models import HCT, FromPixels


def pixels(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return images.contiguous(memory_format=torch.channels_last)


def step(network: nn.Module, images: torch.Tensor, precision: torch.dtype) -> dict:
    """Gradients, buffers and logits of two training steps."""
    for seed in (1, 2):
        torch.manual_seed(seed)
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            logits = network(images)
        logits.float().square().sum().backward()
        after = torch.rand(1)  # what is drawn next
    gradients = {name: p.grad for name, p in network.named_parameters()}
    return gradients | dict(network.named_buffers()) | {"logits": logits, "after": after}


def both(build, images: torch.Tensor, precision: torch.dtype) -> tuple[dict, dict]:
    """The same without and with recomputing."""
    results = []
    for enable in (False, True):
        torch.manual_seed(0)
        network = FromPixels(build(), (0.4,) * images.shape[1], (0.2,) * images.shape[1])
        network.to(memory_format=torch.channels_last).set_grad_checkpointing(enable)
        results.append(step(network.train(), images, precision))
    return results[0], results[1]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"drop_path_rate": 0.2, "kernel": "softmax"}, (3, 3, 262, 201)),
        ({"conv_stages": 5, "in_chans": 1}, (2, 1, 128, 131)),
        ({"drop_rate": 0.3}, (2, 3, 1030, 161)),
    ],
)
def test_gradients_buffers_and_the_generator_are_those_of_the_plain_path(options, shape, precision):
    plain, low = both(lambda: HCT(**options), pixels(*shape), precision)
    stem = "network.stem.conv.weight"
    for name, value in plain.items():
        if name == stem:  # summed over strips, in another order
            error = (low[name] - value).norm() / value.norm()
            assert error < (1e-5 if precision == torch.float32 else 5e-3)
        else:
            assert torch.equal(low[name], value), name


@pytest.mark.parametrize(("name", "options"), [("resnet18", {"drop_path_rate": 0.3}), ("efficientvit_b0", {})])
def test_timm_networks_recompute_by_their_own_method(name, options):
    plain, low = both(
        lambda: timm.create_model(name, num_classes=4, **options),
        pixels(2, 3, 64, 96),
        torch.float32,
    )
    for key, value in plain.items():
        assert torch.equal(low[key], value), key


@pytest.mark.parametrize("name", [None, "efficientnet_b0"])
def test_synchronised_norms_count_a_batch_once(name):
    """One process synchronises with nobody; BatchNorm's activation in timm's networks stays."""

    def build() -> nn.Module:
        return timm.create_model(name, num_classes=4) if name else HCT(drop_rate=0.0)

    def synchronised() -> nn.Module:
        network = FromPixels(build(), (0.4,) * 3, (0.2,) * 3)
        network.synchronise_batch_norm()
        assert any(isinstance(module, nn.SyncBatchNorm) for module in network.modules())
        return network.network

    images = pixels(2, 3, 128, 128)
    plain, _ = both(build, images, torch.float32)
    _, low = both(synchronised, images, torch.float32)
    for key, value in plain.items():
        if "stem" not in key:
            assert torch.equal(low[key], value), key
    counted = [value for key, value in low.items() if key.endswith("num_batches_tracked")]
    assert counted
    assert all(count == 2 for count in counted)


def test_what_is_kept():
    images = pixels(1, 3, 1024, 1024)
    network = FromPixels(HCT(), (0.4,) * 3, (0.2,) * 3).to(memory_format=torch.channels_last)
    plain = kept_mib(network, lambda: network(images))
    network.set_grad_checkpointing()
    low = kept_mib(network, lambda: network(images))
    stage_inputs = sum(4 * 16 * 2**s * (255 // 2**s) ** 2 for s in range(5))
    assert images.nbytes < 2**20 * low < 1.1 * (images.nbytes + stage_inputs)
    assert low < 0.2 * plain


def test_says_which_networks_can_not():
    for network in (nn.Identity(), timm.create_model("pit_ti_224")):
        with pytest.raises(ValueError, match=f"{type(network).__name__} can't recompute"):
            FromPixels(network, (0.5,), (0.5,)).set_grad_checkpointing()
