"""PyTorch's operations against slow twins; on the CPU here, as on every device."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hct_lightning.data.feeding.augment.device import add_noise, blur, look_up, resample
from hct_lightning.data.feeding.augment.geometry import linear


def noise(height: int, width: int, channels: int = 2) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8))


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


@pytest.mark.parametrize("channels", [1, 3])
def test_values_are_looked_up(channels):
    image, table = noise(12, 10, 3), noise(channels, 256, 1)[..., 0]
    want = torch.stack([table[n % channels][image[..., n].long()] for n in range(3)], dim=-1)
    look_up(image, table, found := torch.empty_like(image))
    assert torch.equal(found, want)
    look_up(image, table, image)  # in place
    assert torch.equal(image, want)


@pytest.mark.parametrize("passes", [1, 2, 3])
@pytest.mark.parametrize("shape", [(33, 29), (40, 2), (1, 9)])
def test_blur_is_a_convolution_with_mirrored_ends(passes, shape):
    image = noise(*shape)
    blurred, want = image.clone(), image.double()
    blur(blurred, passes)
    for _ in range(passes):
        for dim in (0, 1):
            last = want.shape[dim] - 1
            ends = (want.narrow(dim, n, 1) for n in (min(1, last), max(0, last - 1)))
            wide = torch.cat([next(ends), want, next(ends)], dim)
            before, own, after = (wide.narrow(dim, n, last + 1) for n in range(3))
            want = before / 4 + own / 2 + after / 4
    assert torch.equal(blurred, (want + 0.5).floor().byte())


def test_noise_has_its_deviation_and_stays_within_bytes():
    for value, mean in ((128, 128), (0, 4), (255, 251)):
        image = torch.full((203, 150, 3), value, dtype=torch.uint8)
        add_noise(image, 10, 1)
        assert image.float().mean().item() == pytest.approx(mean, abs=0.5)
        assert image.float().std().item() == pytest.approx(10 if value == 128 else 5.8, rel=0.05)
