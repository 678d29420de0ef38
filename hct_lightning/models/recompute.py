"""Recomputing activations in the backward pass instead of keeping them: the two parts that torch lacks.

`torch.utils.checkpoint` recomputes a stage. `count_batches_once` keeps BatchNorm from counting the
second run, and `stem_in_strips` computes HCT's stem from uint8 pixels, in both passes.

Legend: b batch, c channels, h height, w width; a strip is some rows of the stem's output.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

STRIP_ROWS = 128  # of the output; a strip's convolution takes 16 MB in bf16 at 4000 px


def count_batches_once(network: nn.Module) -> None:
    """Keeps BatchNorm from updating its running statistics again when its stage is recomputed."""
    for module in network.modules():
        is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if is_norm and _freeze not in module._forward_pre_hooks.values():
            module.register_forward_pre_hook(_freeze)
            module.register_forward_hook(_thaw, always_call=True)


def _freeze(norm: Any, inputs: Any) -> None:
    if torch._C._current_graph_task_id() != -1:  # a backward pass runs; torch's checkpoint tests it so
        norm.counting = (norm.momentum, norm.num_batches_tracked)
        norm.momentum = 0.0
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked = norm.num_batches_tracked.clone()  # SyncBatchNorm can't do without a count


def _thaw(norm: Any, inputs: Any, output: Any) -> None:
    if hasattr(norm, "counting"):
        norm.momentum, norm.num_batches_tracked = norm.counting
        del norm.counting


def stem_in_strips(pixels: Tensor, weight: Tensor, normalise: Callable[[Tensor], Tensor]) -> Tensor:
    """HCT's stem, a 7x7 convolution and a 3x3 max-pool, both with stride 2, sample by sample.

    Equal to the stem of the normalised image. For the backward pass it keeps the pixels alone, and
    never holds more than a strip of floats, convolution and pooling indices.

    Args:
        pixels: b c h w uint8.
        weight: of the convolution.
        normalise: from pixels to floats of the precision to compute in.

    Returns:
        b 16 ~h/4 ~w/4, channels_last.
    """
    return _StemInStrips.apply(pixels, weight, normalise)


class _StemInStrips(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pixels: Tensor, weight: Tensor, normalise: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(pixels, weight)
        ctx.normalise = normalise
        out = None
        for sample, rows in _strips(pixels):
            strip = _stem(pixels[sample], weight, normalise, rows)
            if out is None:
                size = (len(pixels), len(weight), _pooled(pixels.shape[2]), strip.shape[3])
                out = torch.empty(size, dtype=strip.dtype, device=strip.device, memory_format=torch.channels_last)
            out[sample, :, rows] = strip
        assert out is not None  # an image has at least one strip
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        pixels, weight = ctx.saved_tensors
        weight = weight.detach().requires_grad_()
        total = torch.zeros_like(weight)
        for sample, rows in _strips(pixels):
            with torch.enable_grad():
                strip = _stem(pixels[sample], weight, ctx.normalise, rows)
            total += torch.autograd.grad(strip, weight, grad[sample, :, rows])[0]
        return None, total, None


def _pooled(length: int) -> int:
    """Rows after the convolution (padding 3, stride 2) and the pooling (no padding, stride 2)."""
    return ((length - 1) // 2 + 1 - 3) // 2 + 1


def _strips(pixels: Tensor) -> Iterator[tuple[slice, slice]]:
    """The samples, one by one, and rows of the output."""
    rows = _pooled(pixels.shape[2])
    for i in range(len(pixels)):
        for first in range(0, rows, STRIP_ROWS):
            yield slice(i, i + 1), slice(first, min(first + STRIP_ROWS, rows))


def _stem(pixels: Tensor, weight: Tensor, normalise: Callable[[Tensor], Tensor], rows: slice) -> Tensor:
    """The stem's output in `rows`, from those pixels that it depends on."""
    height = pixels.shape[2]
    # Output row r pools the rows 2r to 2r + 2 of the convolution, whose row y sees the pixels' rows
    # 2y - 3 to 2y + 3; those outside of the image are zeros after normalisation.
    first, last = 4 * rows.start - 3, 4 * rows.stop + 4
    above, below = max(0, -first), max(0, last - height)
    x = normalise(pixels[:, :, first + above : last - below])
    if above or below:
        x = F.pad(x, (0, 0, above, below))
    x = F.conv2d(x, weight.to(x.dtype), stride=2, padding=(0, 3))
    return F.max_pool2d(x, 3, stride=2)
