"""The whole of it, with a real training: tests/tasks/test_pretrain.py."""

import torch

from hct_lightning.callbacks.filled_images import GAP, centre, sheet


def test_the_centre_of_images_and_small_ones_as_they_are():
    images = torch.arange(2 * 10 * 7).view(2, 1, 10, 7)
    assert torch.equal(centre(images, 4), images[:, :, 3:7, 1:5])
    assert torch.equal(centre(images, 8), images[:, :, 1:9])
    assert torch.equal(centre(images, 99), images)


def test_a_row_for_each_image_grey_or_in_colour():
    for channels in (1, 3, 5):
        pictures = torch.randint(0, 200, (3, 2, channels, 16, 20), dtype=torch.uint8)
        page = sheet(pictures)
        assert page.size == (3 * 20 + 2 * GAP, 2 * 16 + GAP)
        first = pictures[2, 1, :3, 0, 0].tolist() if channels > 1 else pictures[2, 1, 0, 0, 0].expand(3).tolist()
        assert list(page.getpixel((2 * (20 + GAP), 16 + GAP))) == first
        assert page.getpixel((21, 0)) == (255, 255, 255)
