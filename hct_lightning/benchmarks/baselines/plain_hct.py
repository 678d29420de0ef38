"""HCT written plainly, with torch alone: the baseline of the benchmarks.

The same network as `hct_lightning.models.HCT` with its default options, as one would write it
down from the paper: contiguous tensors, fp32, heads moved to the front, attention by einsum.
"""

import math

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int = 8) -> None:
        super().__init__()
        self.heads = heads
        d = dim // heads
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(dim, dim) for _ in range(4))
        self.dropout = nn.Dropout(0.1)
        self.projection: Tensor
        self.register_buffer("projection", torch.randn(int(d * math.log(d)), d))

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape

        def split(t: Tensor) -> Tensor:
            return t.view(b, n, self.heads, c // self.heads).transpose(1, 2)

        q, k, v = split(self.to_q(x)), split(self.to_k(x)), split(self.to_v(x))
        q, k = self.features(q), self.features(k)
        normaliser = 1 / torch.einsum("bhnm,bhm->bhn", q, k.sum(dim=2))
        context = torch.einsum("bhnm,bhnd->bhmd", k, v)
        out = torch.einsum("bhmd,bhnm,bhn->bhnd", context, q, normaliser)
        return self.dropout(self.to_out(out.transpose(1, 2).reshape(b, n, c)))

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(x.shape[-1] ** -0.25 * x.float() @ self.projection.t()) + 1e-3


class Block(nn.Module):
    def __init__(self, inp: int, out: int, stride: int, first: bool, attention: bool) -> None:
        super().__init__()
        middle = inp if attention else out
        self.bn1 = nn.BatchNorm2d(inp)
        self.attention = Attention(inp) if attention else None
        if not attention:
            self.conv1 = nn.Conv2d(inp, out, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, out, 3, stride if attention else 1, 1, bias=False)
        self.downsample = nn.Conv2d(inp, out, 1, stride, bias=False) if first else None

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(x))
        shortcut = self.downsample(y) if self.downsample is not None else x
        if self.attention is not None:
            b, c, h, w = y.shape
            y = self.attention(y.view(b, c, h * w).transpose(1, 2))
            y = y.transpose(1, 2).view(b, c, h, w) + x
        else:
            y = self.conv1(y)
        return self.conv2(torch.relu(self.bn2(y))) + shortcut


class PlainHCT(nn.Module):
    """b 3 h w normalised floats -> b classes."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        layers = [nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.MaxPool2d(3, 2)]
        chans = 16
        for s, width in enumerate((16, 32, 64, 128, 256)):
            for i in range(2):
                layers.append(Block(chans, width, 2 if i == 0 else 1, i == 0, s >= 3))
                chans = width
        layers += [nn.BatchNorm2d(chans), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(chans, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean(dim=(2, 3)))
