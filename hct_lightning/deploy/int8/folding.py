"""BatchNorm folded into the convolution before it."""

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hct_lightning.models.hct import ConvBlock


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
