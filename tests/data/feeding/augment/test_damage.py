import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hct_lightning.data.feeding.augment.damage import compress, draw_noise, erase


@pytest.fixture
def image(photos) -> Tensor:
    """A photograph's part, h w 3; sides are no multiples of 8."""
    with Image.open(next(photos.rglob("*.jpg"))) as photo:
        return torch.from_numpy(np.array(photo.convert("RGB").crop((300, 300, 450, 503))))


def test_noise_is_normal_and_comes_from_its_seed():
    grey = torch.full((803, 600, 3), 128, dtype=torch.uint8)
    table, places = draw_noise(grey, 1000, 1)
    assert places.shape == (161, 600, 3)
    noise = table[places.int()].double().flatten() / 1000
    for moment, of_normal in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        assert noise.pow(moment).mean().item() == pytest.approx(of_normal, abs=0.15)
    shares = places.flatten().int().bincount(minlength=256) / places.numel()
    assert shares.min() > 0.8 / 256  # all bytes, alike
    assert shares.max() < 1.2 / 256
    assert torch.equal(draw_noise(grey, 1000, 1)[1], places)
    assert not torch.equal(draw_noise(grey, 1000, 2)[1], places)


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
