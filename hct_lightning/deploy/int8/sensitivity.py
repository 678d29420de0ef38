"""How sensitive each layer is to int8, so that only a percentage is quantized, the least sensitive layers."""

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from hct_lightning.deploy.int8.folding import fold_batch_norm
from hct_lightning.deploy.int8.layers import layers, sqnr_db


def float_layers(network: nn.Module, calibration: Iterable[Tensor], percent: float) -> set[str]:
    """The most sensitive layers, those that stay float when `percent` of all are to be int8.

    Raises:
        ValueError: for a percentage out of 0..100.
    """
    if not 0 <= percent <= 100:
        raise ValueError(f"percent={percent}: give the share of int8 layers, 0 to 100")
    if percent == 100:
        return set()
    ranked = list(sensitivity(network, calibration))
    return set(ranked[round(len(ranked) * percent / 100) :])


@torch.no_grad()
def sensitivity(network: nn.Module, calibration: Iterable[Tensor], *, batches: int = 4) -> dict[str, float]:
    """SQNR of the logits in dB when a layer alone is int8, by layer, the most robust first.

    Args:
        network: takes uint8 images.
        calibration: uint8 batches.
        batches: how many of them are looked at.
    """
    network = fold_batch_norm(network)
    seen = list(itertools.islice(calibration, batches))
    exact = torch.cat([network(images) for images in seen])
    found = {}
    for name, layer in layers(network).items():
        weight = layer.weight.data
        layer.weight.data = _int8_weight(weight)
        hook = layer.register_forward_pre_hook(lambda _, inputs: _int8_activation(inputs[0]))
        found[name] = sqnr_db(exact, torch.cat([network(images) for images in seen]))
        hook.remove()
        layer.weight.data = weight
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _int8_weight(weight: Tensor) -> Tensor:
    """Rounded to 8 bits, symmetric per output channel."""
    scale = (weight.flatten(1).abs().amax(dim=1) / 127).clamp_min(1e-12)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -128, 127)


def _int8_activation(x: Tensor) -> Tensor:
    """Rounded to 8 bits, affine over the whole tensor."""
    low, high = x.amin().clamp_max(0), x.amax().clamp_min(0)
    scale = ((high - low) / 255).clamp_min(1e-12)
    zero = (-low / scale).round().int()
    return torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 255)
