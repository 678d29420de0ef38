"""What every int8 exporter shares: which layers, BatchNorm folded away, and the noise in dB."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hct_lightning.models.hct import ConvBlock


def layers(network: nn.Module) -> dict[str, nn.Module]:
    """The convolutions and linears of `network`, by name: what can be int8."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    }


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """A copy in eval mode and fp32 whose BatchNorms behind a convolution are part of it.

    The other BatchNorms of HCT stand in front of a convolution, with a sum before them, and stay.
    """
    network = copy.deepcopy(network).eval().float()
    for block in network.modules():
        if isinstance(block, ConvBlock):
            block.conv1 = fuse_conv_bn_eval(block.conv1, block.bn2)
            block.bn2 = nn.Identity()
    return network


def sqnr_db(exact: Tensor, quantized: Tensor) -> float:
    """Signal to quantization noise: 20 log10(|exact| / |exact - quantized|)."""
    noise = (exact - quantized).norm().clamp_min(torch.finfo(torch.float32).tiny)
    return (20 * torch.log10(exact.norm() / noise)).item()
