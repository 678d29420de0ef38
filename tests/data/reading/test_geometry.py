import itertools

import pytest
import torch
import torchvision.transforms.v2.functional as tv
from torchvision.transforms.v2 import CenterCrop

from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.geometry import Region, apply, as_size, choose_region, padding, resize
from hct_lightning.data.reading.image import read_image

SIZES = (1, 7, 97, 128, 129, 144, 145, 200, 257, 301)
TARGETS = ((128, 128), (128, 96), (97, 131))


def ramp(height: int, width: int) -> torch.Tensor:
    """3 h w: the first channel grows downwards, the second to the right, the third is white."""
    down = torch.linspace(0, 255, height).round()[:, None].expand(height, width)
    right = torch.linspace(0, 255, width).round().expand(height, width)
    return torch.stack([down, right, torch.full_like(down, 255)]).byte()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("geometry", ["cover", "paper"])
def test_any_size_becomes_the_target(geometry, target):
    for size in itertools.product(SIZES, SIZES):
        image = apply(ramp(*size), target, geometry)
        assert image.shape == (3, *target)
        assert image.dtype == torch.uint8


@pytest.mark.parametrize("target", TARGETS)
def test_cover_is_inside_centred_largest_and_of_the_targets_aspect(target):
    for height, width in itertools.product(SIZES, SIZES):
        top, left, h, w = choose_region((height, width), target, "cover")
        assert top >= 0
        assert left >= 0
        assert h == height or w == width  # the largest
        assert abs(height - h - 2 * top) <= 1  # centred
        assert abs(width - w - 2 * left) <= 1
        # The aspect is exact but for the rounding of one side to whole pixels.
        assert abs(h - w * target[0] / target[1]) <= max(0.5, 0.5 * target[0] / target[1]) or 1 in (
            h,
            w,
        )


def test_cover_has_no_borders():
    for size in itertools.product(SIZES[1:], SIZES[1:]):
        assert apply(ramp(*size), (128, 96), "cover")[2].min() == 255


def test_height_comes_first():
    wide = apply(ramp(300, 300), (50, 100), "cover")
    assert wide.shape == (3, 50, 100)
    assert choose_region((300, 300), (50, 100), "cover") == Region(75, 0, 150, 300)
    # Rows 75..225 of 0..255, all the columns.
    assert wide[0].min() > 60
    assert wide[0].max() < 195
    assert wide[1].min() < 5
    assert wide[1].max() > 250


@pytest.mark.parametrize("geometry", ["cover", "paper"])
def test_an_image_of_the_target_size_is_itself(geometry):
    image = ramp(97, 131)
    assert torch.equal(apply(image, (97, 131), geometry), image)
    assert resize(image, (97, 131)) is image


def as_the_paper_says(image: torch.Tensor, target: tuple[int, int]) -> torch.Tensor:
    """The slow twin, with torchvision."""
    if all(side <= 1.125 * wanted for side, wanted in zip(image.shape[1:], target, strict=True)):
        return CenterCrop(target)(image)
    twice = CenterCrop([2 * side for side in target])(image)
    return tv.resize(twice, target, tv.InterpolationMode.BICUBIC, antialias=True)


@pytest.mark.parametrize("target", [(128, 128), (96, 129)])
def test_paper_is_torchvisions_centre_crop(target):
    generator = torch.Generator().manual_seed(0)
    for size in itertools.product(SIZES, SIZES):
        image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
        difference = apply(image, target, "paper").int() - as_the_paper_says(image, target)
        assert difference.abs().max() <= 1, size  # uint8 arithmetic or float, rounded


def test_paper_halves_above_nine_eighths():
    assert choose_region((144, 144), (128, 128), "paper") == Region(8, 8, 128, 128)
    assert choose_region((144, 145), (128, 128), "paper") == Region(-56, -55, 256, 256)
    assert choose_region((4000, 6000), (4000, 4000), "paper") == Region(-2000, -1000, 8000, 8000)


def test_paper_pads_short_sides_with_zeros():
    image = apply(torch.full((1, 90, 128), 200, dtype=torch.uint8), (128, 128), "paper")
    assert image[0, 19:109].eq(200).all()
    assert image[0, :19].eq(0).all()
    assert image[0, 109:].eq(0).all()


def test_a_photograph_is_reduced_without_aliasing(photos):
    image = read_image(
        photos / "Mountain/extreme-desert-hike.jpg", Decoding(channels=3, size=None, geometry="cover", max_pixels=2**24)
    )
    small = apply(image, (128, 192), "cover").float()
    blocks = torch.nn.functional.interpolate(image[None, :, :, :].float(), (128, 192), mode="area")[0]
    assert (small - blocks).abs().mean() < 3
    picked = image[:, 10::20, 10::20].float()  # what nearest-neighbour would give: much noisier
    assert (picked - blocks).abs().mean() > 2 * (small - blocks).abs().mean()


def test_as_size():
    assert as_size(1024) == (1024, 1024)
    assert as_size([3328, 2560]) == as_size((3328, 2560)) == (3328, 2560)


@pytest.mark.parametrize("wrong", [0, -1, [128], [128, 128, 3], [128, 0], 12.5, [1.5, 2], "1024", None])
def test_a_wrong_resolution_is_named(wrong):
    with pytest.raises(ValueError, match=r"resolution=.*one positive number .* or \[height, width\]"):
        as_size(wrong)


def test_an_unknown_geometry_is_named():
    with pytest.raises(ValueError, match="geometry=squash: choose cover or paper"):
        choose_region((10, 10), (5, 5), "squash")


@pytest.mark.parametrize(
    ("source", "geometry", "share"),
    [
        ((1024, 1024), "paper", 1 - 1024**2 / 4000**2),  # 93 % is black
        ((1024, 1024), "cover", 0),
        ((4000, 4000), "paper", 0),
        ((5000, 9000), "paper", 1 - 5000 / 8000),
    ],
)
def test_padding_is_the_share_that_lies_outside(source, geometry, share):
    assert padding(source, (4000, 4000), geometry) == pytest.approx(share)
    image = apply(torch.full((1, *(side // 8 for side in source)), 255, dtype=torch.uint8), (500, 500), geometry)
    assert (image == 0).float().mean().item() == pytest.approx(share, abs=0.01)
