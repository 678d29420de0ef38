"""Occlusion: how much the score of a class falls when a tile of the image is grey.

Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014. Captum's keeps several copies of
the image as floats; these loops work on the pixels themselves, so that large images take no more than a prediction.

Legend: c channels, h height, w width.
"""

from collections.abc import Callable, Iterable
from itertools import pairwise, product

import torch
from torch import Tensor

from hct_lightning.explain.maps import Map
from hct_lightning.models import FromPixels

Track = Callable[[Iterable[int], int], Iterable[int]]


@torch.inference_mode()
def occlusion_map(
    network: FromPixels, pixels: Tensor, target: int, *, grey: Tensor, tile: int | None, batch: int, track: Track
) -> Map:
    """Args:
    network: in evaluation.
    pixels: 1 c h w uint8.
    target: the class.
    grey: c uint8, what a tile is filled with.
    tile: its height and width in pixels, about: tiles of equal size cover the image.
    batch: tiles at a time.
    track: shows progress; takes what is done, and its number.
    """
    tile = tile or max(1, max(pixels.shape[2:]) // 16)
    places = list(product(edges(pixels.shape[2], tile), edges(pixels.shape[3], tile)))
    before = network(pixels)[0, target]
    lost = []
    for start in track(range(0, len(places), batch), -(-len(places) // batch)):
        part = places[start : start + batch]
        covered = pixels.expand(len(part), -1, -1, -1).contiguous(memory_format=torch.channels_last).clone()
        for image, (rows, columns) in zip(covered, part, strict=True):
            image[:, rows, columns] = grey[:, None, None]
        lost.append(before - network(covered)[:, target])
    values = torch.cat(lost).float().cpu()
    return Map(values.view(len(edges(pixels.shape[2], tile)), -1), "lost from the score")


def edges(length: int, tile: int) -> list[slice]:
    """Divides `length` pixels into parts of about `tile`, equal to a pixel."""
    parts = max(1, round(length / tile))
    ends = [round(i * length / parts) for i in range(parts + 1)]
    return [slice(a, b) for a, b in pairwise(ends)]
