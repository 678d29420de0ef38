"""Batches on their way to a GPU, while it computes with the one before."""

from functools import cache
from typing import Any

import torch
from torch import Tensor

ON_DEVICE = 2  # batches that are on a GPU at once: computed with, and on its way


class Transfer:
    """Hands batches over to a GPU; the call comes when all work on those before has been given to the device.

    There is one for all loaders and epochs, from `transfer_to`. The allocator keeps freed memory by stream: what an
    earlier copying stream had would be lost to the next. And only where all batches pass can they be counted: the next
    one is copied when the device has begun with the one before it, so there are `ON_DEVICE` at most.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._copying: Any = torch.cuda.Stream(device)
        self._begun: Any = None  # an event: the device has the batch before, and has done with earlier ones

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        """A batch's tensors, pinned, as the device's current stream will find them."""
        if self._begun:
            self._begun.synchronize()  # it still has that batch to compute with
        current = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._copying):
            moved = [tensor.to(self.device, non_blocking=True) for tensor in tensors]
        current.wait_event(self._copying.record_event())
        self._begun = current.record_event()
        for tensor in moved:
            tensor.record_stream(current)  # else its memory could be copied to again as soon as Python drops it
        return moved


@cache
def transfer_to(device: torch.device) -> Transfer:
    """The one of this GPU."""
    return Transfer(device)
