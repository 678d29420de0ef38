"""Gradient maps: complete where they must be, at the layers of HCT and timm's networks."""

import pytest
import timm
import torch

from hct_lightning.explain.gradient import check_layer, default_layer, gradient_map
from hct_lightning.models import FromPixels


def test_behind_the_last_layer_the_map_adds_up_to_the_score(hct, pixels):
    network = hct()
    found = gradient_map(network, pixels, 2, layer="act")
    score = network(pixels)[0, 2] - network.network.head.bias[2]
    assert found.values.sum().item() == pytest.approx(score.item(), rel=1e-4)


def test_it_is_the_map_times_its_gradient(hct, pixels):
    network = hct()
    found = gradient_map(network, pixels, 1, layer=default_layer(network.network))
    x = network.network.stem(network.normalise(pixels, torch.float32))
    for stage in network.network.stages[:3]:
        x = stage(x)
    x.requires_grad_()
    y = x
    for stage in network.network.stages[3:]:
        y = stage(y)
    score = network.network.forward_head(network.network.act(network.network.norm(y)))[0, 1]
    slow = (x * torch.autograd.grad(score, x)[0]).sum(dim=1)[0].detach()
    assert found.values.shape == (7, 9)  # 224 and 288 px by 32
    torch.testing.assert_close(found.values, slow, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "layer"), [("resnet18", "layer4"), ("mobilenetv4_conv_small", "blocks.4")])
def test_networks_of_timm(name, layer, pixels):
    network = FromPixels(timm.create_model(name, num_classes=3), (0.5,) * 3, (0.25,) * 3).eval().requires_grad_(False)
    assert default_layer(network.network) == layer
    values = gradient_map(network, pixels, 0, layer=layer).values
    assert values.shape == (7, 9)
    assert values.unique().numel() > 1


def test_a_layer_that_gives_no_map_is_named(hct, pixels):
    with pytest.raises(ValueError, match=r"explain\.layer=head: it gives no map"):
        gradient_map(hct(), pixels, 0, layer="head")
    with pytest.raises(ValueError, match=r"explain\.layer=stage: the network has no such module; choose one, of stem"):
        check_layer(hct().network, "stage")
    check_layer(hct().network, "stages.1")
    with pytest.raises(ValueError, match=r"Linear does not say .*explain\.layer"):
        default_layer(torch.nn.Linear(1, 1))
