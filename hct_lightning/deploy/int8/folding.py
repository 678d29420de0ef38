"""BatchNorm and the normalisation of pixels, folded into the convolutions beside them."""

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hct_lightning.models.hct import HCT, ConvBlock
from hct_lightning.models.pixels import FromPixels

FAR_APART = 8  # times that a weight of a BatchNorm is larger than another


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


@torch.no_grad()
def fold_sums(network: nn.Module) -> None:
    """Moves the BatchNorm behind a convolution stage into what the stage adds up, in place.

    It alone sees the stage's last sum, so all that is added up can have its scale and its shift beforehand; then its
    ReLU follows the sum at once. Where its weights are far apart it stays: a channel would have few of the 256 values
    that are for all. The last of the `local_stages` keeps its sum as it is, for that is a map that others take
    (`name_first_stages`). Other networks are left as they are.
    """
    if not (isinstance(network, FromPixels) and isinstance(network.network, HCT)):
        return
    stages = [list(cast(nn.Sequential, stage)) for stage in network.network.stages]
    for i in range(network.network.local_stages - 1):
        blocks, norm = cast("list[ConvBlock]", stages[i]), cast(ConvBlock, stages[i + 1][0]).bn1
        if not isinstance(norm, nn.BatchNorm2d):
            continue
        sizes = norm.weight.abs()
        if sizes.min() <= sizes.max() / FAR_APART:  # all of them zero, too: nothing could be divided by them
            continue
        scale = norm.weight / (cast(Tensor, norm.running_var) + norm.eps).sqrt()
        shift = norm.bias - cast(Tensor, norm.running_mean) * scale
        shortcut = cast(nn.Conv2d, blocks[0].shortcut)
        shortcut.bias = nn.Parameter(shift)
        for layer in (shortcut, *(block.conv2 for block in blocks)):
            layer.weight.mul_(scale.view(-1, 1, 1, 1))
        for block in blocks[1:]:  # whose own BatchNorm takes the sum so far, scaled and shifted
            bn = cast(nn.BatchNorm2d, block.bn1)
            cast(Tensor, bn.running_mean).mul_(scale).add_(shift)
            bn.weight.div_(scale)
        stages[i + 1][0].bn1 = nn.Identity()
