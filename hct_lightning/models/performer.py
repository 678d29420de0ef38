"""Linear attention with positive random features (Performer).

Choromanski et al., "Rethinking Attention with Performers", ICLR 2021. Softmax attention needs a
tokens x tokens matrix; here queries and keys are mapped to m non-negative features, so that

    out = phi(q) (phi(k)^T v) / (phi(q) sum_n phi(k)_n)

can be summed over the tokens first: time and memory grow linearly with the number of tokens. The sums can
also be gathered part by part (`sums`) before any part reads them (`read`): see streaming.py.

Legend: b batch, n tokens, c channels, h heads, d = c / h, m random features.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Kernel = Literal["relu", "softmax"]


def orthogonal_features(rows: int, dim: int) -> Tensor:
    """Draws the random projection P.

    Args:
        rows: number of random features m.
        dim: dimension d of a head.

    Returns:
        m x d, made of square blocks with orthogonal rows, every row scaled to norm sqrt(d).
    """
    blocks = []
    for start in range(0, rows, dim):
        q, _ = torch.linalg.qr(torch.randn(dim, dim))
        blocks.append(q.T[: rows - start])
    return torch.cat(blocks) * math.sqrt(dim)


def _without_autocast(x: Tensor) -> AbstractContextManager:
    # Entered only when needed: torch.export makes an opaque call of an autocast block.
    if torch.is_autocast_enabled(x.device.type):
        return torch.autocast(x.device.type, enabled=False)
    return nullcontext()


class PerformerAttention(nn.Module):
    """Self-attention over all positions of a feature map, linear in their number.

    Args:
        dim: channels c, a multiple of `heads`.
        heads: number of heads h.
        kernel: `relu`, phi(x) = relu(d^-1/4 x P^T) + 1e-3; or `softmax`, the positive estimator of
            the softmax kernel.
        drop_rate: dropout on the output.

    Attributes:
        tokens_at_once: in training longer inputs are taken in parts, which are computed again in the backward pass;
            None: as a whole.

    Input and output are tokens, b n c. The kernels and the sums over tokens are computed in fp32
    even under autocast; the linear layers follow autocast.
    """

    projection: Tensor  # random features, m d

    def __init__(self, dim: int, *, heads: int = 8, kernel: Kernel = "relu", drop_rate: float = 0.0) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim={dim} is not a multiple of heads={heads}")
        if kernel not in ("relu", "softmax"):
            raise ValueError(f"kernel={kernel!r} is unknown; choose 'relu' or 'softmax'")
        self.heads = heads
        self.kernel = kernel
        self.tokens_at_once: int | None = None
        head_dim = dim // heads
        features = int(head_dim * math.log(head_dim))
        if features < 1:
            raise ValueError(f"heads of {head_dim} channels have no random features; use >= 3")
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)
        self.drop = nn.Dropout(drop_rate)
        self.register_buffer("projection", orthogonal_features(features, head_dim))

    def forward(self, x: Tensor) -> Tensor:
        if self.tokens_at_once and x.shape[1] > self.tokens_at_once and torch.is_grad_enabled():
            return self._by_parts(x.split(self.tokens_at_once, dim=1))
        return self.read(x, self.sums(x))

    def _by_parts(self, parts: Sequence[Tensor]) -> Tensor:
        """Keeps of each part what goes in and comes out, not the features, which are a few times larger."""
        peak = None
        if self.kernel == "softmax":
            with torch.no_grad():
                peak = torch.stack([self.key_peak(part) for part in parts]).amax(dim=0)
        sums = [checkpoint(self.sums, part, peak, use_reentrant=False) for part in parts]
        total = torch.stack(sums).sum(dim=0)
        return torch.cat([checkpoint(self.read, part, total, use_reentrant=False) for part in parts], dim=1)

    def key_peak(self, x: Tensor) -> Tensor:
        """The greatest projection of a key, for each head: b n c -> b h 1 1.

        The softmax kernel wants that of all tokens. Give the greatest of all parts to `sums`.
        """
        k = self.k(x)
        with _without_autocast(x):
            return self._project(self._split_heads(k)).amax(dim=(-1, -2), keepdim=True)

    def sums(self, x: Tensor, key_peak: Tensor | None = None) -> Tensor:
        """Sums over the tokens, in fp32: phi(k)^T v and, as one more column, phi(k): b n c -> b h m (d + 1).

        The sums of parts of the tokens add up to those of the whole.
        """
        k, v = self.k(x), self.v(x)
        with _without_autocast(x):
            k = self._features(self._split_heads(k), is_query=False, peak=key_peak)  # b h n m
            context = k.transpose(-1, -2) @ self._split_heads(v)  # b h m d
            total = k.sum(dim=-2)[..., None]  # b h m 1
            # The normaliser is one more column of the context, so that phi(q) is read once.
            return torch.cat([context, total], dim=-1)

    def read(self, x: Tensor, sums: Tensor) -> Tensor:
        """What each token takes from the sums over all of them: b n c and b h m (d + 1) -> b n c."""
        q = self.q(x)
        dtype = q.dtype
        with _without_autocast(x):
            out = self._features(self._split_heads(q), is_query=True) @ sums  # b h n (d + 1)
            out = out[..., :-1] / out[..., -1:]
            out = out.transpose(1, 2).to(dtype, memory_format=torch.contiguous_format).flatten(2)
        return self.drop(self.proj(out))

    def asked(self, x: Tensor, weights: Tensor, sums: Tensor) -> Tensor:
        """What tokens with such weights ask of all keys, b n c -> b h m; those of parts add up.

        With `given` it is how much each token is attended to: a weighted mean of the rows of the attention matrix, and
        of the heads. The matrix itself, n x n, is not formed.

        Args:
            x: b n c.
            weights: of the tokens that attend, b n; over all parts they sum to 1.
            sums: of all parts.
        """
        q = self.q(x)
        with _without_autocast(x):
            q = self._features(self._split_heads(q), is_query=True)  # b h n m
            of_row = q @ sums[..., -1:]  # what a row is divided by, b h n 1
            return (q * (weights[:, None, :, None] / of_row)).sum(dim=-2)

    def given(self, x: Tensor, asked: Tensor, key_peak: Tensor | None = None) -> Tensor:
        """How much of that each token gives, a mean of the heads: b n c -> b n; `key_peak` as of `sums`."""
        k = self.k(x)
        with _without_autocast(x):
            k = self._features(self._split_heads(k), is_query=False, peak=key_peak)
            return (k @ asked[..., None])[..., 0].mean(dim=1)

    def _split_heads(self, x: Tensor) -> Tensor:
        """b n (h d) -> b h n d in fp32: one copy casts and moves the heads to the front.

        The features are a few times larger than x. After this copy they and their gradients lie in memory
        as the matrix products take them, and need no copy of their own.
        """
        x = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return x.to(torch.float32, memory_format=torch.contiguous_format)

    def _project(self, x: Tensor) -> Tensor:
        """b h n d -> b h n m."""
        # The scale is folded into the small matrix, not applied to every token.
        projection = (self.projection.float() * self.projection.shape[1] ** -0.25).T
        # One product over all heads. In a product for each head, exports would hold a projection for each.
        return (x.flatten(0, -2) @ projection).unflatten(0, x.shape[:-1])

    def _features(self, x: Tensor, *, is_query: bool, peak: Tensor | None = None) -> Tensor:
        """phi: b h n d -> b h n m."""
        m, d = self.projection.shape
        projected = self._project(x)
        if self.kernel == "relu":
            return projected.relu() + 1e-3
        norm = x.square().sum(dim=-1, keepdim=True) * (0.5 * d**-0.5)
        # Keeps exp within range. It is one number a token for queries and one a head for keys, so it cancels in
        # the ratio of `read`.
        if peak is None:
            peak = projected.detach().amax(dim=-1 if is_query else (-1, -2), keepdim=True)
        return (torch.exp(projected - norm - peak) + 1e-4) * m**-0.5
