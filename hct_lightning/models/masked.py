"""Masked image modelling: blocks of an image are hidden, and what they hold is to be said from what is around them.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, for pixels that are normalised by patch; Wei et
al., "Masked Feature Prediction", CVPR 2022, for edges; Xie et al., "SimMIM", CVPR 2022, for hiding without leaving out,
which suits convolutions.

Legend: b images, c channels, h height, w width of an image; a patch has PATCH pixels a side, a cell CELL.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 8
CELL = 4
EDGES = 3 * (PATCH // CELL) ** 2  # numbers that say a patch's edges
LEAST_VARIANCE = 0.01  # of a patch: an even one keeps its even values
LEAST_STRENGTH = 0.02  # of edges, on the average of an image


def hide(images: Tensor, drawn: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Images whose hidden blocks have the image's mean, and the patches that are hidden.

    Args:
        images: b c h w floats.
        drawn: b rows columns, a random number for each block, whose sides are multiples of PATCH.
        share: of each image's blocks that are hidden: those with the smallest numbers, one at least.

    Returns:
        b c h w, and b 1 h/8 w/8 bool.
    """
    block = images.shape[2] // drawn.shape[1]
    rank = drawn.flatten(1).argsort(dim=1).argsort(dim=1).view(drawn.shape)
    hidden = (rank < max(1, round(share * drawn[0].numel())))[:, None]
    even = images.mean(dim=(2, 3), keepdim=True)
    return torch.where(_enlarged(hidden, block), even, images), _enlarged(hidden, block // PATCH)


def _enlarged(mask: Tensor, by: int) -> Tensor:
    return mask.repeat_interleave(by, 2).repeat_interleave(by, 3)


def patches_of(images: Tensor) -> Tensor:
    """The pixels of each patch, less their mean and divided by their deviation: b c h w -> b (c 64) h/8 w/8."""
    each, mean, deviation = _by_patch(images)
    return ((each - mean) / deviation).flatten(1, 2)


def with_patches(images: Tensor, said: Tensor, hidden: Tensor) -> Tensor:
    """Images, b c h w, whose hidden patches are what is said of them, as `patches_of` has them.

    Mean and deviation of each are the true ones, which is not said: so it is a picture and no measure.
    """
    each, mean, deviation = _by_patch(images)
    filled = said.view(each.shape) * deviation + mean
    return F.pixel_shuffle(torch.where(hidden[:, None], filled, each).flatten(1, 2), PATCH)


def _by_patch(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """b c h w -> pixels, b c 64 h/8 w/8, with mean and deviation of each patch, b c 1 h/8 w/8."""
    each = F.pixel_unshuffle(images, PATCH).unflatten(1, (images.shape[1], -1))
    variance, mean = torch.var_mean(each, dim=2, correction=0, keepdim=True)
    return each, mean, (variance + LEAST_VARIANCE).sqrt()


def edges_of(images: Tensor) -> Tensor:
    """Strength and direction of edges in each cell, on average: b c h w -> b 12 h/8 w/8.

    The direction is that of the doubled angle, in which the two sides of a stroke are alike. All is relative to the mean
    strength in the image, so that contrast does not count.
    """
    grey = images.mean(dim=1, keepdim=True)
    across = F.pad(grey[..., 2:] - grey[..., :-2], (1, 1, 0, 0))
    down = F.pad(grey[..., 2:, :] - grey[..., :-2, :], (0, 0, 1, 1))
    strength = (across.square() + down.square() + 1e-6).sqrt()
    parts = [strength, (across.square() - down.square()) / strength, 2 * across * down / strength]
    cells = F.avg_pool2d(torch.cat(parts, dim=1), CELL)
    cells = cells / (cells[:, :1].mean(dim=(1, 2, 3), keepdim=True) + LEAST_STRENGTH)
    return F.pixel_unshuffle(cells, PATCH // CELL)


def levels_of(network: nn.Module, images: Tensor) -> list[Tensor]:
    """The maps that a network's stages give, finest first; the last one as the classifier takes it.

    Args:
        network: HCT or one of timm's, which name their stages in `feature_info`.
        images: b c h w, normalised.

    Raises:
        ValueError: for a network that has no maps of its stages.
    """
    name = type(network).__name__
    if not hasattr(network, "feature_info") or not hasattr(network, "forward_features"):
        raise ValueError(f"{name} does not say what its stages are, so it can't be pre-trained; HCT can")
    known: Any = network
    maps: dict[str, Tensor] = {}
    stages = [info["module"] for info in known.feature_info[:-1]]

    def keep(stage: str) -> Any:
        return lambda module, given, found: maps.__setitem__(stage, found)

    hooks = [known.get_submodule(stage).register_forward_hook(keep(stage)) for stage in stages]
    try:
        last = known.forward_features(images)
    finally:
        for hook in hooks:
            hook.remove()
    found = [*maps.values(), last]
    widths = [info["num_chs"] for info in known.feature_info[:-1]]
    if any(level.ndim != 4 for level in found) or [level.shape[1] for level in found[:-1]] != widths:
        raise ValueError(f"{name} gives no maps, b c h w, of its stages, so it can't be pre-trained; HCT can")
    return found


class Decoder(nn.Module):
    """From the maps of all stages to what patches hold: a 1x1 convolution of each, and one of 3x3 over their sum.

    It is small, so that what is to be known of an image has to be in the network.

    Args:
        widths: channels of the maps.
        channels: of the images.
        width: of what is summed.
    """

    def __init__(self, widths: Sequence[int], channels: int, width: int = 64) -> None:
        super().__init__()
        self.lifts = nn.ModuleList(nn.Conv2d(chans, width, 1) for chans in widths)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.act = nn.ReLU()
        self.patches = nn.Conv2d(width, channels * PATCH**2, 1)
        self.edges = nn.Conv2d(width, EDGES, 1)
        for head in (self.patches, self.edges):  # it begins with the mean
            nn.init.zeros_(head.weight)

    def forward(self, levels: Sequence[Tensor], grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Maps, and (h/8, w/8) -> b (c 64) h/8 w/8 and b 12 h/8 w/8."""
        lifted = [
            F.interpolate(lift(level), grid, mode="bilinear", align_corners=False)
            for lift, level in zip(self.lifts, levels, strict=True)
        ]
        x = torch.stack(lifted).sum(dim=0)
        x = x + self.conv(self.act(self.bn1(x)))
        x = self.act(self.bn2(x))
        return self.patches(x), self.edges(x)


def errors(said: Tensor, true: Tensor, hidden: Tensor) -> Tensor:
    """The mean square error over the hidden patches of each image, b."""
    each = (said - true).square().mean(dim=1, keepdim=True) * hidden
    return each.sum(dim=(1, 2, 3)) / hidden.sum(dim=(1, 2, 3))
