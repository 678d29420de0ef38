import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from hct_lightning.data.feeding.augment.damage import add_noise, blur, compress, erase


@pytest.fixture
def image(photos) -> Tensor:
    """A photograph's part, h w 3; sides are no multiples of 8."""
    with Image.open(next(photos.rglob("*.jpg"))) as photo:
        return torch.from_numpy(np.array(photo.convert("RGB").crop((300, 300, 450, 503))))


@pytest.mark.parametrize("weight", [4, 16, 21])
def test_blur_is_a_convolution(image, weight):
    blurred = image.clone()
    blur(blurred, 1, weight)
    line = torch.tensor([weight, 64 - 2 * weight, weight]) / 64
    planes = image.permute(2, 0, 1)[:, None].float()
    want = F.conv2d(planes, torch.outer(line, line)[None, None])[:, 0].permute(1, 2, 0)
    assert (blurred[1:-1, 1:-1] - want).abs().max() <= 1.1  # rounded twice


def test_more_passes_blur_more(image):
    sharpness = []
    for passes in (0, 1, 3):
        blurred = image.clone()
        blur(blurred, passes, 16)
        sharpness.append(blurred.float().diff(dim=1).abs().mean())
    assert sharpness[0] > sharpness[1] > sharpness[2] > 0


def test_noise_has_its_deviation_and_comes_from_its_seed():
    grey = torch.full((203, 150, 3), 128, dtype=torch.uint8)
    noisy, again, other = grey.clone(), grey.clone(), grey.clone()
    add_noise(noisy, 10, 1)
    add_noise(again, 10, 1)
    add_noise(other, 10, 2)
    assert noisy.float().std().item() == pytest.approx(10, rel=0.05)
    assert noisy.float().mean().item() == pytest.approx(128, abs=0.5)
    assert torch.equal(noisy, again)
    assert not torch.equal(noisy, other)


@pytest.mark.parametrize("quality", [30, 60, 90])
def test_jpeg_loses_what_jpeg_loses(image, quality):
    grey = image[..., :1].contiguous()
    ours, file = grey.clone(), io.BytesIO()
    compress(ours, quality)
    Image.fromarray(grey[..., 0].numpy()).save(file, "jpeg", quality=quality)
    theirs = torch.from_numpy(np.array(Image.open(file))).float()
    whole = np.s_[:200, :144]
    lost = (grey[..., 0][whole] - theirs[whole]).abs().mean()
    assert (ours[..., 0][whole] - theirs[whole]).abs().mean() < 0.3 * lost
    assert torch.equal(ours[200:], grey[200:])  # blocks that are not whole


def test_an_image_smaller_than_a_block_is_left_alone():
    image = torch.full((7, 90, 1), 3, dtype=torch.uint8)
    compress(image, 30)
    assert (image == 3).all()


@pytest.mark.parametrize("place", [(0.0, 0.0), (1.0, 1.0), (0.3, 0.7)])
def test_a_box_is_erased(image, place):
    erased = image.clone()
    erase(erased, place, (0.25, 0.5), 7)
    box = (erased == 7).all(2)
    assert box.sum() >= round(0.25 * 203) * 75
    rows, columns = (erased != image).any(2).nonzero().unbind(1)
    assert rows.max() - rows.min() < 52
    assert columns.max() - columns.min() < 75
