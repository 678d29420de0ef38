"""BatchNorm's statistics, measured on images rather than remembered from training steps.

Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021, section 3. Legend: n batches, c channels of all layers.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


def norms_of(network: nn.Module) -> list[Any]:
    """The BatchNorm layers that keep statistics."""
    layers = (m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return [layer for layer in layers if layer.running_mean is not None]


@contextlib.contextmanager
def normalising_by_batch(network: nn.Module, *, momentum: float) -> Iterator[None]:
    """Every BatchNorm layer normalises by its batch, as in training; all else, dropout among it, does as in evaluation.

    The network's modes, and the count of training batches, are afterwards as they were.

    Args:
        network: with such layers or without.
        momentum: of the running statistics, 0 to 1: 0 leaves them alone, 1 makes them the last batch's.
    """
    layers = norms_of(network)
    modes = [(module, module.training) for module in network.modules()]
    kept = [(layer, layer.momentum, layer.num_batches_tracked) for layer in layers]
    network.eval()
    for layer in layers:
        layer.train()
        layer.momentum = momentum
        if layer.num_batches_tracked is not None:
            layer.num_batches_tracked = layer.num_batches_tracked.clone()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for layer, before, count in kept:
            layer.momentum, layer.num_batches_tracked = before, count


@torch.no_grad()
def measure_statistics(
    network: nn.Module, batches: Iterable[Tensor], gather: Callable[[Tensor], Tensor] = lambda seen: seen
) -> None:
    """Puts mean and variance over all images in the place of BatchNorm's running ones.

    Args:
        network: with BatchNorm layers, or without: then nothing is done. Layers that do not see images keep theirs.
        batches: of images, all of one size.
        gather: from this rank's figures, n 2 c, to those of all ranks, alike on each.
    """
    layers = norms_of(network)
    if not layers:
        return
    seen = []
    with normalising_by_batch(network, momentum=1.0):
        for images in batches:
            network(images)
            seen.append(torch.stack([torch.cat([getattr(layer, key) for layer in layers]) for key in _FIGURES]))
    means, variances = gather(torch.stack(seen)).unbind(1)
    # Variance within the batches and between them. The batches have one size, so all weigh the same.
    found = means.mean(0), variances.mean(0) + means.var(0, correction=0)
    sizes = [len(layer.running_mean) for layer in layers]
    for key, values in zip(_FIGURES, found, strict=True):
        for layer, value in zip(layers, values.split(sizes), strict=True):
            getattr(layer, key).copy_(value)


_FIGURES = ("running_mean", "running_var")
