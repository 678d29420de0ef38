"""Convolutions on a map that is larger than memory, tile by tile, exactly.

A tile of the output depends on a tile of the input and a margin around it. The layers run as they are on both; what
they give for the margin is left out.

Legend: c channels, h height, w width; a place is a tile of the output, its rows and its columns.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Place = tuple[slice, slice]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Reach:
    """How far an output of layers, one after the other, reaches into their input along one axis.

    Args:
        windows: kernel, stride and padding of each layer.
    """

    windows: tuple[tuple[int, int, int], ...]

    @property
    def stride(self) -> int:
        return math.prod(stride for _, stride, _ in self.windows)

    def length(self, n: int) -> int:
        """The number of outputs of `n` inputs."""
        for kernel, stride, padding in self.windows:
            n = (n + 2 * padding - kernel) // stride + 1
        return n

    def needed(self, outputs: slice, n: int) -> tuple[slice, slice]:
        """What `outputs` need of `n` inputs, and where they stand among the outputs of that.

        It begins at a multiple of the stride, so that its outputs fall on those of the whole. Where its edge is not
        the true border, outputs near it see zeros instead of the input; these are not among `outputs`.
        """
        first, last = outputs.start, outputs.stop - 1
        for kernel, stride, padding in reversed(self.windows):
            first, last = first * stride - padding, last * stride - padding + kernel - 1
        skipped = max(0, first // self.stride)
        inputs = slice(skipped * self.stride, min(n, last + 1))
        return inputs, slice(outputs.start - skipped, outputs.stop - skipped)


def reach_of(*modules: nn.Module) -> Reach:
    """Of stem, blocks or stages of HCT, one after the other; their shortcuts reach no farther than the rest."""
    windows = []
    for module in modules:
        for name, layer in module.named_modules():
            if isinstance(layer, nn.Conv2d | nn.MaxPool2d) and not name.endswith("shortcut"):
                sizes = (layer.kernel_size, layer.stride, layer.padding)
                windows.append(tuple(size if isinstance(size, int) else cast(tuple, size)[0] for size in sizes))
    return Reach(tuple(windows))


@dataclass(frozen=True)
class Tiled:
    """Layers that a map passes through tile by tile.

    Args:
        run: the layers, 1 c h w -> 1 c' h' w'.
        reach: theirs.
        read: gives rows and columns of the map, 1 c h w.
        size: height and width of the map.
        tile: greatest height and width of a place.
    """

    run: Callable[[Tensor], Tensor]
    reach: Reach
    read: Callable[[slice, slice], Tensor]
    size: tuple[int, int]
    tile: tuple[int, int]

    @property
    def output_size(self) -> tuple[int, int]:
        return self.reach.length(self.size[0]), self.reach.length(self.size[1])

    def places(self) -> list[Place]:
        rows, columns = (
            [slice(start, min(start + step, length)) for start in range(0, length, step)]
            for length, step in zip(self.output_size, self.tile, strict=True)
        )
        return list(product(rows, columns))

    def pieces(self) -> Iterator[tuple[Place, Tensor]]:
        """The output, place by place; the input of the next is read meanwhile."""
        places = self.places()
        with ThreadPoolExecutor(1) as ahead:
            following = ahead.submit(self._read, places[0])
            for i, place in enumerate(places):
                part = following.result()
                if i + 1 < len(places):
                    following = ahead.submit(self._read, places[i + 1])
                (_, rows), (_, columns) = self._windows(place)
                yield place, self.run(part)[:, :, rows, columns]

    def joined(self, progress: Progress | None = None) -> Tensor:
        """The whole output, channels_last; `progress` is called with the number of places done and of all."""
        out, total = None, len(self.places())
        for done, ((rows, columns), piece) in enumerate(self.pieces(), start=1):
            if out is None:
                shape = (1, piece.shape[1], *self.output_size)
                out = torch.empty(shape, dtype=piece.dtype, device=piece.device, memory_format=torch.channels_last)
            out[:, :, rows, columns] = piece
            if progress:
                progress(done, total)
        assert out is not None  # there is at least one place
        return out

    def trained(self, parameters: Sequence[Tensor]) -> Tensor:
        """The whole output, of which the backward pass computes each piece again.

        Exact as long as no layer looks at more than its reach: BatchNorm must use its running statistics.
        `parameters` are those of the layers that get gradients; the input gets none.
        """
        return _Recomputed.apply(self, *parameters)

    def _windows(self, place: Place) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        return self.reach.needed(place[0], self.size[0]), self.reach.needed(place[1], self.size[1])

    def _read(self, place: Place) -> Tensor:
        (rows, _), (columns, _) = self._windows(place)
        return self.read(rows, columns)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tiled: Tiled, *parameters: Tensor) -> Tensor:
        ctx.tiled, ctx.parameters = tiled, parameters
        return tiled.joined()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        totals = [torch.zeros_like(parameter) for parameter in ctx.parameters]
        with torch.enable_grad():
            for (rows, columns), piece in ctx.tiled.pieces():
                for total, part in zip(
                    totals, torch.autograd.grad(piece, ctx.parameters, grad[:, :, rows, columns]), strict=True
                ):
                    total += part
        return None, *totals
