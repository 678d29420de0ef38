"""Attention rollout without the n x n matrix, against the one with it."""

import pytest
import torch

from hct_lightning.explain.attention import attention_map, has_attention
from hct_lightning.models.hct import AttentionConvBlock, as_tokens


def matrix(attention, x):
    """The mean over the heads of the attention of tokens, 1 n c -> n n."""
    q = attention._features(attention._split_heads(attention.q(x)), is_query=True)
    k = attention._features(attention._split_heads(attention.k(x)), is_query=False)
    scores = q @ k.transpose(-1, -2)
    return (scores / scores.sum(dim=-1, keepdim=True))[0].mean(dim=0)


def cells(small, large):
    """How much a position of a small map has of each position of the large one that it stands for, n' n."""
    one = torch.zeros(small[0] * small[1], large[0] * large[1])
    for y in range(large[0]):
        for x in range(large[1]):
            one[y * small[0] // large[0] * small[1] + x * small[1] // large[1], y * large[1] + x] = 1
    return one


@pytest.mark.parametrize("kernel", ["relu", "softmax"])
def test_it_is_the_rollout_of_the_whole_matrices(hct, pixels, kernel):
    network = hct(kernel=kernel)
    x = network.network.stem(network.normalise(pixels, torch.float32))
    products, sizes = [], []
    for module in (block for stage in network.network.stages for block in stage):
        if isinstance(module, AttentionConvBlock):
            a = matrix(module.attn, as_tokens(module.act1(module.bn1(x))))
            products.append((a + torch.eye(len(a))) / 2)
            sizes.append(tuple(x.shape[2:]))
        x = module(x)
    assert sizes == [(7, 9), (4, 5), (4, 5), (2, 3)]
    assert tuple(x.shape[2:]) == (2, 3)
    row = torch.full((1, 6), 1 / 6)
    for a, small, large in zip(reversed(products), [(2, 3), *sizes[:0:-1]], reversed(sizes), strict=True):
        row = row @ cells(small, large)
        row = row / row.sum() @ a
    found = attention_map(network, pixels, 0)
    assert found.values.shape == (7, 9)
    assert found.values.mean().item() == pytest.approx(1, rel=1e-4)
    torch.testing.assert_close(found.values.flatten(), row[0] * 63, rtol=1e-3, atol=1e-4)


def test_the_cnn_twin_has_none(hct):
    assert has_attention(hct())
    assert not has_attention(hct(conv_stages=5))
