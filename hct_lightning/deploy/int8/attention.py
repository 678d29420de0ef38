"""Attention whose heads share products of matrices, for runtimes that are slow at many small ones.

Legend: b batch, n tokens, c channels, h heads, d = c / h, m random features; see models/performer.py.
"""

from typing import cast

import torch
from torch import Tensor, nn

from hct_lightning.models.hct import AttentionConvBlock
from hct_lightning.models.performer import PerformerAttention

FEATURES = 192  # of the heads that share products, at most: what heads give each other is computed in vain
PART = 256  # tokens at least, whose products are summed at once
SMALL = 2**-10  # so that the range of int8 is that of the other values


class SharedHeads(nn.Module):
    """Some heads of a `relu` attention, before its last linear layer: b n c -> b n (h (d + 1)).

    The random projection is folded into queries and keys. All heads are then columns of one matrix, and nothing is
    transposed. What the keys of a head give to the values of another is set to zero. The normaliser is one more value
    of each head, which is always `SMALL`. It stays among the others, for to leave it out would copy them.

    Args:
        attention: whose heads they are.
        first: of them.
        heads: how many.
    """

    same: Tensor  # whether it is the same head: h 1 h 1

    def __init__(self, attention: PerformerAttention, first: int, heads: int) -> None:
        super().__init__()
        d = attention.projection.shape[1]
        mine = slice(first * d, (first + heads) * d)
        projection = torch.block_diag(*[attention.projection.float() * d**-0.25] * heads)  # (h m) (h d)
        self.q = _linear(projection @ attention.q.weight[mine], projection @ attention.q.bias[mine])
        self.k = _linear(projection @ attention.k.weight[mine], projection @ attention.k.bias[mine])
        weight, bias = attention.v.weight[mine].unflatten(0, (heads, d)), attention.v.bias[mine].view(heads, d)
        weight = torch.cat([weight, torch.zeros_like(weight[:, :1])], dim=1)  # h (d + 1) c
        bias = torch.cat([bias, torch.full_like(bias[:, :1], SMALL)], dim=1)
        self.v = _linear(weight.flatten(0, 1), bias.flatten())
        self.register_buffer("same", torch.eye(heads)[:, None, :, None])

    def forward(self, x: Tensor) -> Tensor:
        each = (self.same.shape[0], -1)
        q, k = self.q(x).relu() + 1e-3, self.k(x).relu() + 1e-3  # b n (h m)
        sums = _sum_products(k, self.v(x))  # b (h m) (h (d + 1))
        sums = (sums.unflatten(2, each).unflatten(1, each) * self.same).flatten(3).flatten(1, 2)
        out = (q @ sums).unflatten(2, each)  # b n h (d + 1)
        return (out * (SMALL / out[..., -1:])).flatten(2)


def _sum_products(k: Tensor, v: Tensor) -> Tensor:
    """k^T v: b n m, b n c -> b m c. Of parts of the tokens first, where their number is known and has a fit divisor:
    OpenVINO takes half the time."""
    n = k.shape[1]
    if not isinstance(n, int):
        return k.transpose(1, 2) @ v
    length = next(i for i in range(min(n, PART), n + 1) if n % i == 0)
    if length == n:
        return k.transpose(1, 2) @ v
    k, v = (part.reshape(-1, length, part.shape[2]) for part in (k, v))
    return (k.transpose(1, 2) @ v).unflatten(0, (-1, n // length)).sum(dim=1)


class SharedAttention(nn.Module):
    """A `PerformerAttention` in eval mode, of several `SharedHeads`: b n c -> b n c."""

    def __init__(self, attention: PerformerAttention, heads: int) -> None:
        super().__init__()
        self.groups = nn.ModuleList(SharedHeads(attention, i, heads) for i in range(0, attention.heads, heads))
        weight = attention.proj.weight.unflatten(1, (attention.heads, -1))  # c h d
        nothing = torch.zeros_like(weight[..., :1])  # for the normaliser
        self.proj = _linear(torch.cat([weight, nothing], dim=2).flatten(1), attention.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(torch.cat([group(x) for group in self.groups], dim=2))


@torch.no_grad()
def share_products(network: nn.Module) -> None:
    """Lets the heads of attention share products, in place, as many at a time as have `FEATURES` together.

    Heads that are too large for that stay as they are, and so does attention with the softmax kernel.
    """
    for block in network.modules():
        if not (isinstance(block, AttentionConvBlock) and block.attn.kernel == "relu"):
            continue
        attention = block.attn
        fit = FEATURES // attention.projection.shape[0]
        heads = max((n for n in range(1, attention.heads + 1) if attention.heads % n == 0 and n <= fit), default=1)
        if heads > 1:
            block.attn = cast(PerformerAttention, SharedAttention(attention, heads))


class Pointwise(nn.Linear):
    """A linear layer as a convolution over tokens, of one at a time: b n c -> b n c'."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features)
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.conv1d(input.transpose(1, 2), self.weight[..., None], self.bias).transpose(1, 2)


def linears_to_convolutions(network: nn.Module) -> None:
    """Makes convolutions of the linear layers of attention, in place.

    For CPUs with AVX2 and without VNNI: OpenVINO multiplies matrices of bytes there at half the speed of convolutions.
    It transposes nothing for them, because it keeps the maps of convolutions in memory as tokens lie.
    """
    for block in network.modules():
        if isinstance(block, AttentionConvBlock):
            for name, layer in [*block.attn.named_modules()]:
                if isinstance(layer, nn.Linear):
                    block.attn.set_submodule(name, Pointwise(layer))


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight, layer.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
    return layer
