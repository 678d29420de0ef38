"""Windows against slow twins."""

import numpy as np
import pytest
import torch

from hct_lightning.data.feeding.augment.geometry import mirrored, seen, window


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


@pytest.mark.parametrize(
    ("centre", "found"),
    [
        ((50.0, 40.0), (range(45, 56), range(35, 46), True)),
        ((2.0, 40.0), (range(0, 8), range(35, 46), False)),
        ((98.0, 40.0), (range(93, 100), range(35, 46), False)),
        ((-40.0, 40.0), (range(0, 46), range(35, 46), False)),
        ((50.0, 140.0), (range(45, 56), range(13, 80), False)),
    ],
)
def test_the_part_that_is_seen_goes_to_the_end_where_something_is_mirrored(centre, found):
    assert seen((100, 80), centre, ((1.0, 0.0), (0.0, 1.0)), (-4.0, 4.0), 4.0) == found
