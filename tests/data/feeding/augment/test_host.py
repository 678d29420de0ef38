"""OpenCV's operations are PyTorch's, but for the rounding of values half-way between two."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hct_lightning.data.feeding.augment import damage, device, host
from hct_lightning.data.feeding.augment.geometry import flipped, linear

CHANNELS = [1, 2, 3, 4, 7]


@pytest.fixture(scope="module")
def photo(photos) -> Tensor:
    """A photograph's part, h w 8: its colours and what they are turned upside down, so that all channels differ."""
    with Image.open(next(photos.rglob("*.jpg"))) as image:
        rgb = torch.from_numpy(np.array(image.convert("RGB").crop((300, 300, 451, 503))))
    return torch.cat([rgb, rgb.flip(0), rgb.flip(1)[..., :2]], 2)


# Whole, a part of the rows, and turned, so that pixels stand in another order in memory.
VIEWS = [lambda x: x.contiguous(), lambda x: x[3:150, 5:140], lambda x: x.flip(1)[::2, ::3], lambda x: x.rot90(1)]


def differing(ours: Tensor, theirs: Tensor) -> float:
    """The share of values that differ, none by more than 1."""
    assert ours.shape == theirs.shape
    apart = (ours.int() - theirs.int()).abs()
    assert apart.max() <= 1
    return (apart > 0).float().mean().item()


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("channels", CHANNELS)
def test_resampled_alike(photo, channels, view):
    image = view(photo[..., :channels])
    for zoom, degrees, size, centre in (
        ((1.1, 1.05), 3.0, (96, 131), (51.3, 60.7)),  # inside, or nearly so
        ((0.7, 1.4), -40.0, (201, 133), (130.3, 20.7)),  # over the ends
        ((0.3, 0.2), 7.0, (120, 333), (10.3, 60.7)),  # so far over them that the whole is mirrored, and again
        ((3.0, 2.0), -3.0, (37, 51), (-200.2, 700.9)),  # beyond them
    ):
        matrix = linear(zoom, degrees)
        ours, theirs = (ways.resample(image, centre, matrix, size) for ways in (host, device))
        assert differing(ours, theirs) < 0.005
        assert ours.is_contiguous()


def test_half_way_between_two_pixels():
    image = torch.arange(256, dtype=torch.uint8).view(16, 16, 1)
    ours, theirs = (ways.resample(image, (7.0, 7.5), linear((1, 1), 0), (15, 15)) for ways in (host, device))
    assert differing(ours, theirs) <= 1


def test_whole_pixels_are_kept_exactly(photo):
    rgb = photo[..., :3]
    assert torch.equal(host.resample(rgb, (101, 75), linear((1, 1), 0), (203, 151)), rgb)
    assert torch.equal(host.resample(rgb, (101, 75), linear((0.5, 0.5), 0), (101, 75)), rgb[1::2, 1::2])


@pytest.mark.parametrize("shape", [(64, 40_000), (40_000, 64)])
def test_longer_than_other_versions_of_opencv_take(shape):
    """And at the far end no less exact."""
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (*shape, 1), np.uint8))
    centre, matrix = (shape[0] - 35.7, shape[1] - 33.3), linear((1.1, 0.9), 2)
    ours, theirs = (ways.resample(image, centre, matrix, (50, 300)) for ways in (host, device))
    assert differing(ours, theirs) < 0.01


@pytest.mark.parametrize("size", [(61, 40), (48, 53)])
@pytest.mark.parametrize("centre", [(75.3, 68.75), (4.5, 100.0)])  # the second one sees mirrored rows
@pytest.mark.parametrize("flips", [(False, True), (True, False), (True, True)])
@pytest.mark.parametrize("ways", [host, device])
def test_a_flipped_matrix_flips_what_is_resampled(photo, ways, flips, centre, size):
    image, matrix = photo[..., :3].contiguous(), linear((1.3, 0.8), 4.0)
    found = ways.resample(image, centre, flipped(matrix, flips), size)
    want = ways.resample(image, centre, matrix, size).flip([dim for dim in (0, 1) if flips[dim]])
    assert differing(found, want) < 0.01


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("channels", CHANNELS)
def test_looked_up_alike(photo, channels, view):
    image = view(photo[..., :channels])
    tables = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (channels, 256), np.uint8))
    for table in (tables, tables[:1]):
        ours, theirs = view(photo[..., :channels].clone()), image.clone()  # laid out as the image, and contiguous
        host.look_up(image, table, ours)
        device.look_up(image, table, theirs)
        assert torch.equal(ours, theirs)
        host.look_up(ours, table, ours)
        device.look_up(theirs, table, theirs)
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("passes", [1, 2, 3])
def test_blurred_alike_in_place(photo, channels, passes, view):
    ours, theirs = photo[..., :channels].clone(), photo[..., :channels].clone()
    host.blur(view_of := view(ours), passes)
    device.blur(other := view(theirs), passes)
    # A 2 * 16 ** passes-th of the values is half-way, of noise; a photograph has more of them.
    assert differing(view_of, other) < 0.1


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize(("deviation", "drawn"), [(0.0, damage.DRAWN), (7.3, damage.DRAWN), (200.0, 2**13)])
def test_noise_alike_in_place(photo, channels, deviation, drawn, view, monkeypatch):
    monkeypatch.setattr(damage, "DRAWN", drawn)  # with 2**13 most of these images have several bands
    ours, theirs = view(photo[..., :channels]).clone(), view(photo[..., :channels]).clone()
    host.add_noise(ours, deviation, 5)
    device.add_noise(theirs, deviation, 5)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 3), (7, 1, 2), (2, 2, 4)])
def test_images_of_a_pixel_or_two(shape):
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    for ways in (host, device):
        resampled = ways.resample(image, (0.2, 0.7), linear((1.1, 1.2), 4), (5, 6))
        blurred, noisy = image.clone(), image.clone()
        ways.blur(blurred, 3)
        ways.add_noise(noisy, 20, 1)
        if ways is host:
            ours = resampled, blurred, noisy
    for mine, theirs in zip(ours, (resampled, blurred, noisy), strict=True):
        differing(mine, theirs)


def test_as_many_threads_as_pytorch_has_and_the_same_result(photo):
    before, found = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        host.use_threads_of_torch()
        assert cv2.getNumThreads() == threads
        image = host.resample(photo[..., :3], (101, 75), linear((0.3, 0.4), 5), (700, 501))
        host.blur(image, 2)
        host.look_up(image, torch.arange(255, -1, -1, dtype=torch.uint8)[None], image)
        found.append(image)
    torch.set_num_threads(before)
    host.use_threads_of_torch()
    assert torch.equal(*found)
