"""Where a network looks, asked of any artifact: parts of the image are greyed, and the winner's probability falls.

No gradients are needed, so this holds for int8 and for every runtime.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hct_lightning.deploy.artifact import Artifact


class Occlusion(NamedTuple):
    """probabilities: classes, of the whole image. drop: tiles tiles, by how much that of the winner falls without each."""

    probabilities: Tensor
    drop: Tensor


def occlusion(artifact: Artifact, image: Tensor, tiles: int, *, at_a_time: int) -> Occlusion:
    """Greys one of `tiles` x `tiles` parts after the other.

    Args:
        artifact: the network.
        image: c h w uint8, of a size that it takes.
        tiles: in each direction.
        at_a_time: copies of the image in memory.
    """
    _, height, width = image.shape
    grey = image.float().mean(dim=(1, 2)).round().to(torch.uint8).view(-1, 1, 1)  # of the image: no edge of its own
    rows, columns = (torch.linspace(0, side, tiles + 1).round().int().tolist() for side in (height, width))
    places = [(row, column) for row in range(tiles) for column in range(tiles)]
    whole = artifact(image[None])[0]
    left = []
    for start in range(0, len(places), at_a_time):
        some = places[start : start + at_a_time]
        copies = image.repeat(len(some), 1, 1, 1)
        for copy, (row, column) in zip(copies, some, strict=True):
            copy[:, rows[row] : rows[row + 1], columns[column] : columns[column + 1]] = grey
        left.append(artifact(copies)[:, whole.argmax()])
    return Occlusion(whole, (whole.max() - torch.cat(left)).view(tiles, tiles))
