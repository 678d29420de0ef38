"""Receptive fields of networks of which they are known."""

import pytest
import torch
from torch import nn

from hct_lightning.explain.receptive_field import draw, half_side, receptive_field
from hct_lightning.models import FromPixels


class OneConvolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 5, padding=2)
        nn.init.ones_(self.conv.weight)

    def forward_features(self, x):
        return self.conv(x)


def test_a_convolution_reaches_as_far_as_its_kernel(pixels):
    network = FromPixels(OneConvolution(), (0.5,) * 3, (0.25,) * 3)
    field = receptive_field(network, [pixels[:, :, :31, :41], pixels[:, :, :31, 100:141]])
    expected = torch.zeros(31, 41)
    expected[13:18, 18:23] = 1 / 25
    torch.testing.assert_close(field, expected)
    assert half_side(field, 0.95) == 3 / 31
    assert half_side(torch.ones(100, 100), 0.5) == pytest.approx(0.36)  # a square with half of the area


def test_attention_reaches_the_whole_image_where_convolutions_do_not(hct):
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (1, 3, 1024, 1024), dtype=torch.uint8)
    ours, twin = (receptive_field(hct(conv_stages=stages, blocks=[1] * 5), [pixels]) for stages in (3, 5))
    assert ours.sum().item() == pytest.approx(1, abs=1e-3)
    reached = twin.nonzero()
    assert reached.min() >= 128, "as reach_of says of these convolutions"
    assert reached.max() < 892
    for corner in (slice(16, 64), slice(940, 990)):
        assert (ours[corner, corner] > 0).all()


def test_a_network_without_a_map_is_named(pixels):
    with pytest.raises(ValueError, match="Identity gives no map before pooling"):
        receptive_field(FromPixels(nn.Identity(), (0.5,) * 3, (0.25,) * 3), [pixels])
    with pytest.raises(ValueError, match=r"of one size; give explain\.resolution"):
        receptive_field(FromPixels(OneConvolution(), (0.5,) * 3, (0.25,) * 3), [pixels, pixels[:, :, :64]])
    with pytest.raises(ValueError, match="no image could be read"):
        receptive_field(FromPixels(OneConvolution(), (0.5,) * 3, (0.25,) * 3), [])


def test_the_figure_has_a_panel_for_each(tmp_path):
    fields = [(name, state, torch.rand(60, 40)) for name in ("a", "b") for state in ("random weights", "trained")]
    figure = draw(fields)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[:4] == ["a, random weights", "b, random weights", "a, trained", "b, trained"]
    figure.savefig(tmp_path / "figure.png")
