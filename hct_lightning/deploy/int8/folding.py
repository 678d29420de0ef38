"""BatchNorm and the normalisation of pixels, folded into the convolutions beside them."""

import copy

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
def fold_stem(network: nn.Module) -> bool:
    """Folds what surrounds the stem's convolution into it, in place, so that it takes pixels and gives activations.

    Before it, of the normalisation a shift by whole numbers is left: `scale` is 1, `offset` the mean of each channel,
    rounded, below zero. In int8 that is the zero point of the pixels, which costs nothing. The network pads with
    zeros after normalising, which is the mean; in int8 it pads with the rounded mean, off by half a grey level at
    most. Within the image nothing is rounded: the bias has the rest.

    After it, the first block's BatchNorm and ReLU move before the max-pool: both grow with their input, where no
    weight of the BatchNorm is negative, so they and the maximum commute. The same holds for rounding, so the pool
    can work on int8.

    Returns:
        Whether it was done: it is for HCT, and for means within the range of pixels.
    """
    if not (isinstance(network, FromPixels) and isinstance(network.network, HCT)):
        return False
    mean = -network.offset.double() / network.scale.double()
    zero = mean.round()
    if zero.min() < 0 or zero.max() > 255:
        return False
    stem, block = network.network.stem, network.network.stages[0][0]
    weight = stem.conv.weight.double() * network.scale.double().view(1, -1, 1, 1)
    bias = (weight * (zero - mean).view(1, -1, 1, 1)).sum(dim=(1, 2, 3))
    stem.conv.weight.copy_(weight)
    stem.conv.bias = nn.Parameter(bias.float())
    network.scale.fill_(1)
    network.offset.copy_(-zero)
    if isinstance(block.bn1, nn.BatchNorm2d) and (block.bn1.weight > 0).all():
        stem.conv = fuse_conv_bn_eval(stem.conv, block.bn1)
        stem.pool = nn.Sequential(block.act1, stem.pool)
        block.bn1 = block.act1 = nn.Identity()
    return True
