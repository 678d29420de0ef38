"""What a forward pass keeps for its backward pass."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def kept_mib(network: nn.Module, forward: Callable[[], Tensor]) -> float:
    """MiB of the distinct storages that `forward` saves for the backward pass, parameters aside."""
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = forward()
    del out
    return sum(kept.values()) / 2**20
