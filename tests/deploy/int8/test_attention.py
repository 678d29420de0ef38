"""Attention whose heads share products answers as that of the network does."""

import copy

import pytest
import torch

from hct_lightning.deploy.int8.attention import (
    SMALL,
    SharedAttention,
    SharedHeads,
    linears_to_convolutions,
    share_products,
)
from hct_lightning.models import HCT, FromPixels
from hct_lightning.models.performer import PerformerAttention


def test_sharing_keeps_the_answers(network, images):
    shared = copy.deepcopy(network)
    share_products(shared)
    with torch.inference_mode():
        for x in images:
            torch.testing.assert_close(shared(x), network(x), rtol=1e-4, atol=1e-4)


def test_as_many_heads_share_as_are_small_enough(network):
    """Eight of 16 features, twice four of 44; those of 110 go alone, as they were."""
    shared = copy.deepcopy(network)
    share_products(shared)
    found = [m.named_parameters() for m in shared.modules() if isinstance(m, SharedAttention)]
    keys = [[tuple(weight.shape) for name, weight in all_of if name.endswith("k.weight")] for all_of in found]
    assert keys == [[(8 * 16, 64)], [(4 * 44, 128)] * 2, [(4 * 44, 128)] * 2]
    assert sum(isinstance(m, PerformerAttention) for m in shared.modules()) == 1


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_heads_take_nothing_from_each_other(heads):
    torch.manual_seed(0)
    attention = PerformerAttention(32, heads=4).eval()
    x = torch.randn(2, 37, 32)
    with torch.inference_mode():
        exact = attention(x)
        torch.testing.assert_close(SharedAttention(attention, heads)(x), exact, rtol=1e-4, atol=1e-5)
        first = SharedHeads(attention, 0, heads)(x)
        # The normaliser, which is among the values, must not widen the range that they are rounded in.
        assert first.unflatten(2, (heads, 9))[..., -1].sub(SMALL).abs().max() < 1e-6
        attention.v.weight[heads * 8 :] = 0  # of the heads behind
        assert torch.equal(SharedHeads(attention, 0, heads)(x), first)


@pytest.mark.parametrize(("tokens", "parts"), [(37, 1), (509, 1), (625, 1), (882, 3), (1024, 4)])
def test_products_are_summed_in_parts_where_the_tokens_divide(tokens, parts):
    torch.manual_seed(0)
    attention = PerformerAttention(32, heads=4).eval()
    shared, x = SharedAttention(attention, 4), torch.randn(2, tokens, 32)
    with torch.inference_mode():
        torch.testing.assert_close(shared(x), attention(x), rtol=1e-4, atol=1e-5)
    nodes = torch.export.export(shared, (x,)).run_decompositions().graph.nodes
    summed = next(node for node in nodes if node.target is torch.ops.aten.bmm.default)
    assert summed.meta["val"].shape[0] == 2 * parts


def test_any_number_of_tokens_can_be_exported():
    torch.manual_seed(0)
    attention = PerformerAttention(32, heads=4).eval()
    shared = SharedAttention(attention, 4)
    shapes = ({1: torch.export.Dim("tokens", min=2)},)
    program = torch.export.export(shared, (torch.randn(2, 300, 32),), dynamic_shapes=shapes).module()
    with torch.inference_mode():
        for tokens in (37, 512, 625):
            x = torch.randn(2, tokens, 32)
            torch.testing.assert_close(program(x), attention(x), rtol=1e-4, atol=1e-5)


def test_convolutions_over_tokens_are_the_linear_layers(network, images):
    other = copy.deepcopy(network)
    share_products(other)
    linears_to_convolutions(other)
    with torch.inference_mode():
        torch.testing.assert_close(other(images[0]), network(images[0]), rtol=1e-4, atol=1e-4)
    nodes = torch.export.export(other, (images[0],)).run_decompositions().graph.nodes
    linears = [node for node in nodes if node.target is torch.ops.aten.addmm.default]
    assert len(linears) == 1, "the head's"


def test_the_softmax_kernel_stays():
    network = FromPixels(HCT(kernel="softmax"), [0.5] * 3, [0.25] * 3).eval()
    share_products(network)
    assert sum(isinstance(m, PerformerAttention) for m in network.modules()) == 4
