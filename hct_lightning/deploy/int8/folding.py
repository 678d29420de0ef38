"""BatchNorm and the normalisation of pixels, folded into the convolutions beside them."""

import copy
from typing import cast

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hct_lightning.models.hct import HCT, ConvBlock
from hct_lightning.models.pixels import FromPixels


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """A copy in eval mode and fp32, with each BatchNorm that follows a convolution folded into it.

    The other BatchNorms of HCT stand in front of a convolution, with a sum before them, and stay.
    What is folded already is left as it is.
    """
    network = copy.deepcopy(network).eval().float()
    for block in network.modules():
        if isinstance(block, ConvBlock) and isinstance(block.bn2, nn.BatchNorm2d):
            assert isinstance(block.conv1, nn.Conv2d)
            block.conv1 = fuse_conv_bn_eval(block.conv1, block.bn2)
            block.bn2 = nn.Identity()
    return network


@torch.no_grad()
def fold_normalisation(network: nn.Module) -> bool:
    """Folds the normalisation of pixels into the stem's convolution, in place, but for a shift by whole numbers.

    `scale` is then 1, and `offset` the mean of each channel, rounded, below zero. In int8 that is the zero point of
    the pixels, which costs nothing. The network pads with zeros after normalising, which is the mean; now it pads with
    the rounded mean, off by half a grey level at most. Within the image nothing is rounded: the bias has the rest.

    Returns:
        Whether it was done: it is for HCT, and for means within the range of pixels.
    """
    if not (isinstance(network, FromPixels) and isinstance(network.network, HCT)):
        return False
    mean = -network.offset.double() / network.scale.double()
    zero = mean.round()
    if zero.min() < 0 or zero.max() > 255:
        return False
    conv = network.network.stem.conv
    weight = conv.weight.double() * network.scale.double().view(1, -1, 1, 1)
    bias = (weight * (zero - mean).view(1, -1, 1, 1)).sum(dim=(1, 2, 3)).float()
    conv.weight.copy_(weight)
    conv.bias = nn.Parameter(bias if conv.bias is None else conv.bias + bias)
    network.scale.fill_(1)
    network.offset.copy_(-zero)
    return True


def fold_first_activation(network: nn.Module) -> None:
    """Moves the first block's BatchNorm into the stem's convolution, and its ReLU before the max-pool, in place.

    Both grow with their input, where no weight of the BatchNorm is negative, so they and the maximum commute. The same
    holds for rounding, so the pool can work on int8. Other networks are left as they are.
    """
    if not (isinstance(network, FromPixels) and isinstance(network.network, HCT)):
        return
    stem, block = network.network.stem, cast(nn.Sequential, network.network.stages[0])[0]
    assert isinstance(block, ConvBlock), "an HCT has two stages of them at least"
    if isinstance(block.bn1, nn.BatchNorm2d) and (block.bn1.weight > 0).all():
        stem.conv = fuse_conv_bn_eval(stem.conv, block.bn1)
        stem.pool = nn.Sequential(block.act1, stem.pool)
        block.bn1, block.act1 = nn.Identity(), nn.Identity()
