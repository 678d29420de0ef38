"""From an image of any size to the size that the network sees.

A geometry chooses one region of the source, which is then resized to the target. Both are given
as (height, width) in pixels. Preparing, training and predicting use this same code.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch.nn.functional as F
from torch import Tensor

Geometry = Literal["cover", "paper"]
Size = tuple[int, int]
NATIVE = "native"  # in the place of a size: every image as it is


class Region(NamedTuple):
    """A rectangle in the source, in pixels. What lies outside the source is zeros."""

    top: int
    left: int
    height: int
    width: int


def as_size(resolution: int | str | Sequence[int]) -> Size:
    """`resolution` as (height, width).

    Raises:
        ValueError: unless it is a positive int or two of them.
    """
    size: tuple[Any, ...] = tuple(resolution) if isinstance(resolution, Sequence) else (resolution, resolution)
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise ValueError(f"resolution={resolution}: give one positive number of pixels or [height, width]")
    height, width = size
    return height, width


def size_of(image: Tensor) -> Size:
    """(height, width) of c h w."""
    height, width = image.shape[-2:]
    return height, width


def check_geometry(geometry: str) -> None:
    """Raises ValueError for an unknown geometry."""
    if geometry not in get_args(Geometry):
        raise ValueError(f"data.geometry={geometry}: choose {' or '.join(get_args(Geometry))}")


def choose_region(source: Size, target: Size, geometry: Geometry) -> Region:
    """The part of an image of size `source` that becomes the network's input of size `target`.

    `cover`: the largest centred region with the target's aspect ratio; no borders. `paper`: an
    image with both sides <= 1.125 x target is centre-cropped to the target, any other to twice the
    target (and then halved); where a side is short the region reaches outside.

    Raises:
        ValueError: for an unknown geometry.
    """
    check_geometry(geometry)
    (height, width), (target_height, target_width) = source, target
    if geometry == "cover":
        scale = min(height / target_height, width / target_width)
        crop_height = min(height, max(1, round(target_height * scale)))
        crop_width = min(width, max(1, round(target_width * scale)))
    else:
        factor = 1 if height <= 1.125 * target_height and width <= 1.125 * target_width else 2
        crop_height, crop_width = factor * target_height, factor * target_width
    top, left = _centre(height, crop_height), _centre(width, crop_width)
    return Region(top, left, crop_height, crop_width)


def _centre(side: int, crop: int) -> int:
    """Where a centred crop starts; rounds as torchvision's center_crop does, padding included."""
    return -((crop - side) // 2) if side < crop else round((side - crop) / 2)


def resize(image: Tensor, target: Size) -> Tensor:
    """c h w uint8 -> c target uint8, bicubic and antialiased; the image itself at the same size."""
    if size_of(image) == target:
        return image
    return F.interpolate(image[None], target, mode="bicubic", antialias=True)[0]


def coarsen(image: Tensor, pixels: int | None) -> Tensor:
    """c h w uint8, reduced to `pixels` a side and enlarged again; None leaves it as it is."""
    return image if pixels is None else resize(resize(image, as_size(pixels)), size_of(image))


def inside(region: Region, source: Size) -> Region:
    """The part of `region` that lies within an image of size `source`."""
    top, left = max(0, region.top), max(0, region.left)
    bottom = min(source[0], region.top + region.height)
    right = min(source[1], region.left + region.width)
    return Region(top, left, bottom - top, right - left)


def padding(source: Size, target: Size, geometry: Geometry) -> float:
    """The share of the result that lies outside an image of size `source`, and is black: 0 to 1."""
    region = choose_region(source, target, geometry)
    part = inside(region, source)
    return 1 - part.height * part.width / (region.height * region.width)


def shift(region: Region, origin: Region) -> Region:
    """`region` with its place measured from the corner of `origin`."""
    return region._replace(top=region.top - origin.top, left=region.left - origin.left)


def cut(image: Tensor, region: Region) -> Tensor:
    """c h w -> c region.height region.width; what lies outside the image is zeros."""
    height, width = image.shape[-2:]
    part = inside(region, (height, width))
    pixels = image[..., part.top : part.top + part.height, part.left : part.left + part.width]
    if part == region:
        return pixels
    bottom, right = region.top + region.height, region.left + region.width
    above, before = max(0, -region.top), max(0, -region.left)
    return F.pad(pixels, (before, max(0, right - width), above, max(0, bottom - height)))


def apply(image: Tensor, target: Size, geometry: Geometry) -> Tensor:
    """c h w uint8 -> c target uint8, by the rules of `geometry`."""
    region = choose_region(size_of(image), target, geometry)
    return resize(cut(image, region), target)
