"""Occlusion, against the library's."""

import pytest
import torch
from captum.attr import Occlusion
from torch import nn

from hct_lightning.explain.occlusion import edges, occlusion_map
from hct_lightning.models import FromPixels

GREY = torch.tensor([10, 20, 30], dtype=torch.uint8)


def test_tiles_of_equal_size_cover_the_image():
    assert edges(128, 32) == [slice(0, 32), slice(32, 64), slice(64, 96), slice(96, 128)]
    assert edges(100, 32) == [slice(0, 33), slice(33, 67), slice(67, 100)]
    assert edges(10, 32) == [slice(0, 10)]


@pytest.mark.parametrize("batch", [1, 3])
def test_it_is_captums(hct, pixels, batch):
    network, done = hct(), []

    def track(items, total):
        for item in items:
            yield item
            done.append(total)

    before = pixels.clone()
    found = occlusion_map(network, pixels, 1, grey=GREY, tile=96, batch=batch, track=track)
    theirs = Occlusion(network).attribute(pixels[:, :, :192], (3, 96, 96), (3, 96, 96), GREY.view(1, 3, 1, 1), target=1)
    assert len(done) == done[0] == -(-6 // batch)
    assert torch.equal(pixels, before)
    ours = occlusion_map(network, pixels[:, :, :192], 1, grey=GREY, tile=96, batch=batch, track=lambda items, _: items)
    torch.testing.assert_close(ours.values, theirs[0, 0, ::96, ::96], rtol=1e-4, atol=1e-4)
    assert found.values.shape == (2, 3)


def test_what_the_score_depends_on_is_bright():
    class Corner(nn.Module):
        def forward(self, x):
            return x[:, :, -1, -1]

    network = FromPixels(Corner(), (0.0,) * 3, (1.0,) * 3)
    pixels = torch.full((1, 3, 64, 64), 200, dtype=torch.uint8)
    found = occlusion_map(network, pixels, 0, grey=GREY, tile=16, batch=4, track=lambda items, _: items)
    assert found.values.argmax().item() == 15
    assert found.values.flatten()[:15].tolist() == [0] * 15
    assert found.values[3, 3].item() == pytest.approx(190 / 255)
