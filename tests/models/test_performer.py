"""Linear attention against a slow twin that builds the tokens x tokens matrix."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hct_lightning.models.performer import PerformerAttention, orthogonal_features


def slow_attention(layer: PerformerAttention, x: torch.Tensor) -> torch.Tensor:
    """The same mathematics, head by head and position by position, in double."""
    b, _, c = x.shape
    d, m = c // layer.heads, layer.projection.shape[0]
    x = x.double()
    p = layer.projection.double()

    def phi(t: torch.Tensor, is_query: bool) -> torch.Tensor:
        projected = d**-0.25 * t @ p.T
        if layer.kernel == "relu":
            return projected.clamp(min=0) + 1e-3
        peak = projected.amax(-1, keepdim=True) if is_query else projected.max()
        norm = d**-0.5 * t.square().sum(-1, keepdim=True) / 2
        return m**-0.5 * (torch.exp(projected - norm - peak.detach()) + 1e-4)

    q, k, v = (
        torch.nn.functional.linear(x, lin.weight.double(), lin.bias.double()) for lin in (layer.q, layer.k, layer.v)
    )
    rows = []
    for i in range(b):
        heads = []
        for h in range(layer.heads):
            part = slice(h * d, (h + 1) * d)
            weights = phi(q[i, :, part], True) @ phi(k[i, :, part], False).T  # n x n
            heads.append((weights / weights.sum(1, keepdim=True)) @ v[i, :, part])
        rows.append(torch.cat(heads, dim=-1))
    out = torch.stack(rows)
    return torch.nn.functional.linear(out, layer.proj.weight.double(), layer.proj.bias.double())


@pytest.mark.parametrize("kernel", ["relu", "softmax"])
@pytest.mark.parametrize(("b", "n", "c"), [(1, 1, 64), (2, 37, 64), (3, 130, 128), (1, 251, 256)])
def test_equals_the_slow_twin_in_value_and_gradient(kernel, b, n, c):
    torch.manual_seed(n)
    layer = PerformerAttention(c, kernel=kernel)
    x = torch.randn(b, n, c, requires_grad=True)
    weights = torch.randn(b, n, c)

    fast, slow = layer(x), slow_attention(layer, x)
    torch.testing.assert_close(fast.double(), slow, rtol=1e-4, atol=1e-5)
    wanted = (x, *layer.parameters())
    for got, expected in zip(
        torch.autograd.grad((fast * weights).sum(), wanted),
        torch.autograd.grad((slow * weights).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(got.double(), expected.double(), rtol=2e-3, atol=2e-3)


def test_bf16_autocast_is_as_good_as_naive_bf16():
    """The kernels stay in fp32: the error is at most twice that of everything in bf16."""
    torch.manual_seed(0)
    layer = PerformerAttention(128)
    x = torch.randn(2, 333, 128)
    exact = slow_attention(layer, x)
    with torch.autocast("cpu", torch.bfloat16):
        ours = layer(x)
    naive = layer.bfloat16()(x.bfloat16())
    assert (ours.double() - exact).abs().mean() <= 2 * (naive.double() - exact).abs().mean()


class LargestTensor(TorchDispatchMode):
    """Records the elements of the largest tensor that any operation makes."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


def test_nothing_grows_with_tokens_squared():
    layer, n = PerformerAttention(64), 4000
    x = torch.randn(1, n, 64, requires_grad=True)
    with LargestTensor() as seen:
        layer(x).sum().backward()
    features = layer.heads * layer.projection.shape[0]
    assert seen.largest <= n * features


def test_projection_rows_are_orthogonal_in_blocks_and_of_norm_sqrt_d():
    p = orthogonal_features(44, 16)
    assert p.shape == (44, 16)
    torch.testing.assert_close(p.norm(dim=1), torch.full((44,), 4.0))
    for start in range(0, 44, 16):
        block = p[start : start + 16]
        torch.testing.assert_close(block @ block.T, 16 * torch.eye(len(block)), atol=1e-4, rtol=0)


def test_number_of_features_is_the_papers():
    assert [PerformerAttention(c).projection.shape[0] for c in (64, 128, 256)] == [
        int(d * math.log(d)) for d in (8, 16, 32)
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"dim": 60}, "multiple of heads"), ({"dim": 8}, "random features"), ({"dim": 64, "kernel": "tanh"}, "'tanh'")],
)
def test_refuses_what_can_not_work(options, message):
    with pytest.raises(ValueError, match=message):
        PerformerAttention(**options)
