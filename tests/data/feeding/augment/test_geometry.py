"""Windows and resampling against slow twins."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hct_lightning.data.feeding.augment.geometry import linear, mirrored, resample, window


def noise(height: int, width: int, channels: int = 2) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8))


@pytest.mark.parametrize(("size", "shift"), [(5, 2), (5, -2), (5, 0), (5, 9), (1, 3), (2, -7)])
def test_mirrored(size, shift):
    walk = list(range(size)) + list(range(size - 2, 0, -1))  # to and fro
    want = [walk[(i + shift) % len(walk)] for i in range(size)]
    assert mirrored(size, shift, size).tolist() == want


@pytest.mark.parametrize("corner", [(0, 0), (2, 3), (-3, 4), (5, -2), (9, 9), (-30, 50)])
@pytest.mark.parametrize("size", [(7, 6), (12, 10)])
def test_a_window_is_what_looking_up_each_pixel_gives(corner, size):
    image = noise(12, 10)
    rows, columns = (mirrored(size[d], corner[d], image.shape[d]) for d in (0, 1))
    assert torch.equal(window(image, corner, size), image[rows][:, columns])


def test_a_window_inside_is_a_view():
    image = noise(12, 10)
    assert window(image, (1, 2), (5, 5)).untyped_storage().data_ptr() == image.untyped_storage().data_ptr()


@pytest.mark.parametrize("zoom", [(1.0, 1.0), (1.3, 0.8)])
@pytest.mark.parametrize("degrees", [0.0, 7.0, -40.0])
@pytest.mark.parametrize("size", [(33, 29), (20, 24)])
def test_resampled_in_strips_as_at_once(zoom, degrees, size):
    image, matrix, centre = noise(33, 29), linear(zoom, degrees), (17.5, 12.0)
    places = [torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in size]
    down, right = torch.meshgrid(*places, indexing="ij")
    y, x = (centre[i] + matrix[i][0] * down + matrix[i][1] * right for i in (0, 1))
    grid = torch.stack([2 * x / 28 - 1, 2 * y / 32 - 1], dim=-1)[None]
    planes = image.permute(2, 0, 1)[None].double()
    want = F.grid_sample(planes, grid, padding_mode="reflection", align_corners=True)[0].permute(1, 2, 0)
    assert (resample(image, centre, matrix, size).double() - want).abs().max() < 0.51


def test_whole_pixels_are_kept_exactly():
    image = noise(33, 29)
    assert torch.equal(resample(image, (16, 14), linear((1, 1), 0), (33, 29)), image)
    turned = resample(image[:29], (14, 14), linear((1, 1), 90), (29, 29))
    assert torch.equal(turned, image[:29].rot90(-1))  # clockwise
    assert torch.equal(resample(image, (16, 14), linear((0.5, 0.5), 0), (17, 15)), image[::2, ::2])  # reduced
