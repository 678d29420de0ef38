"""Convolutions on a map that is larger than memory, tile by tile, exactly.

A tile of the output depends on a tile of the input and a margin around it. The layers run as they are on both; what
they give for the margin is left out.

Legend: c channels, h height, w width; a place is a tile of the output, its rows and its columns.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

T = TypeVar("T")
Place = tuple[slice, slice]
Progress = Callable[[int, int], None]


class Source(Protocol):
    """An image that is read by region."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        ...

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """The pixels of a region, h w c uint8."""
        ...


class Kept(Protocol):
    """A map that is kept where a program which was killed finds it again.

    Attributes:
        done: how many of its places are filled.
    """

    done: int

    def map(self, shape: tuple[int, int, int, int], dtype: torch.dtype) -> Tensor:
        """The map, 1 c h w, channels_last; what is written to it is kept."""
        ...

    def note(self, done: int) -> None:
        """Says that so many places are filled."""
        ...


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

    def span(self, outputs: slice) -> tuple[int, int]:
        """The first and the last input that `outputs` depend on; those beyond the border are its padding."""
        first, last = outputs.start, outputs.stop - 1
        for kernel, stride, padding in reversed(self.windows):
            first, last = first * stride - padding, last * stride - padding + kernel - 1
        return first, last

    def needed(self, outputs: slice, n: int) -> tuple[slice, slice]:
        """What `outputs` need of `n` inputs, and where they stand among the outputs of that.

        It begins at a multiple of the stride, so that its outputs fall on those of the whole. Where its edge is not
        the true border, outputs near it see zeros instead of the input; these are not among `outputs`.
        """
        first, last = self.span(outputs)
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
        tile: greatest height and width of a place; all places are about as large as one another.
        workers: places that are read and computed at once, on the CPU with a share of its threads each: they need not
            wait for one another in every layer. On a GPU one is read while another is computed.
        background: a place whose input differs by no more than this from one value (a channel) is not computed: it is
            what the layers give for that value everywhere. Exact with 0, up to rounding. None computes all.
    """

    run: Callable[[Tensor], Tensor]
    reach: Reach
    read: Callable[[slice, slice], Tensor]
    size: tuple[int, int]
    tile: tuple[int, int]
    workers: int = 1
    background: int | None = None

    @property
    def output_size(self) -> tuple[int, int]:
        return self.reach.length(self.size[0]), self.reach.length(self.size[1])

    def places(self) -> list[Place]:
        rows, columns = (_divided(length, most) for length, most in zip(self.output_size, self.tile, strict=True))
        return list(product(rows, columns))

    def pieces(self, skip: int = 0) -> Iterator[tuple[Place, Tensor]]:
        """The output, place by place after the first `skip`."""
        places = self.places()[skip:]
        return zip(places, in_order(self._piece, places, self.workers), strict=True)

    def joined(self, progress: Progress | None = None, kept: Kept | None = None) -> Tensor:
        """The whole output, channels_last.

        Args:
            progress: is called with the number of places done and of all.
            kept: holds the output, and goes on after the places that it has; the last one is computed again.
        """
        out, total = None, len(self.places())
        begun = max(0, min(kept.done, total) - 1) if kept else 0
        for done, ((rows, columns), piece) in enumerate(self.pieces(skip=begun), start=begun + 1):
            if out is None:
                shape = (1, piece.shape[1], *self.output_size)
                out = (
                    kept.map(shape, piece.dtype)
                    if kept
                    else torch.empty(shape, dtype=piece.dtype, device=piece.device, memory_format=torch.channels_last)
                )
            out[:, :, rows, columns] = piece
            if kept:
                kept.note(done)
            if progress:
                progress(done, total)
        assert out is not None  # there is at least one place
        return out if piece.device == out.device else out.to(piece.device)

    def trained(self, parameters: Sequence[Tensor]) -> Tensor:
        """The whole output, of which the backward pass computes each piece again.

        Exact as long as no layer looks at more than its reach: BatchNorm must use its running statistics.
        `parameters` are those of the layers that get gradients; the input gets none.
        """
        return _Recomputed.apply(self, *parameters)

    def _piece(self, place: Place) -> Tensor:
        """The output at a place."""
        rows, inner_rows = self.reach.needed(place[0], self.size[0])
        columns, inner_columns = self.reach.needed(place[1], self.size[1])
        part = self.read(rows, columns)
        if self.background is not None and self._within(place):
            low, high = part.amin(dim=(2, 3), keepdim=True), part.amax(dim=(2, 3), keepdim=True)
            if int((high - low).max()) <= self.background:
                height, width = (side.stop - side.start for side in place)
                return self._everywhere(low + (high - low) // 2).expand(-1, -1, height, width)
        return self.run(part)[:, :, inner_rows, inner_columns]

    def _within(self, place: Place) -> bool:
        """Whether a place sees nothing of what lies beyond the border."""
        spans = [self.reach.span(side) for side in place]
        return all(first >= 0 and last < n for (first, last), n in zip(spans, self.size, strict=True))

    def _everywhere(self, value: Tensor) -> Tensor:
        """The output, 1 c 1 1, far from the border of a map that is `value`, 1 c 1 1, everywhere."""
        first, last = self.reach.span(slice(0, 1))
        middle = -(first // self.reach.stride)  # the first output that sees no border
        side = middle * self.reach.stride + last + 1
        return self.run(value.expand(-1, -1, side, side))[:, :, middle : middle + 1, middle : middle + 1]


def _divided(length: int, most: int) -> list[slice]:
    """Slices of 0..length of nearly one size, at most `most`."""
    count = -(-length // most)
    edges = [length * i // count for i in range(count + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]


def in_order(function: Callable[[Place], T], places: Sequence[Place], workers: int) -> Iterator[T]:
    """What a function gives for each place, in their order, computed by so many threads in the caller's modes."""
    if workers == 1:
        yield from map(function, places)
        return
    threads, grad, inference = torch.get_num_threads(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    def work(place: Place) -> T:
        with torch.inference_mode(inference), torch.set_grad_enabled(grad and not inference):
            return function(place)

    share = partial(torch.set_num_threads, max(1, threads // workers))  # of this thread; and of those that come later
    pool = ThreadPoolExecutor(workers, "tiles", share)
    try:
        running: deque[Future[T]] = deque()
        for place in places:
            if len(running) == workers:
                yield running.popleft().result()
            running.append(pool.submit(work, place))
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tiled: Tiled, *parameters: Tensor) -> Tensor:
        ctx.tiled, ctx.parameters = tiled, parameters
        return tiled.joined()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tiled: Tiled = ctx.tiled

        def gradients(place: Place) -> tuple[Tensor, ...]:
            with torch.enable_grad():
                piece = tiled._piece(place)
            return torch.autograd.grad(piece, ctx.parameters, grad[:, :, place[0], place[1]])

        totals = [torch.zeros_like(parameter) for parameter in ctx.parameters]
        for parts in in_order(gradients, tiled.places(), tiled.workers):
            for total, part in zip(totals, parts, strict=True):
                total += part
        return None, *totals
