"""Batches on their way to a GPU, while it computes with the one before."""

from collections import deque
from functools import cache
from typing import Any

import torch
from torch import Tensor

ON_DEVICE = 2  # batches of a loader that are on the GPU at once: computed with, and on its way


@cache
def copy_stream(device: torch.device) -> Any:
    """The stream that copies to a device, one for all loaders and epochs.

    The allocator keeps freed memory by stream: what an earlier stream had would be lost to the next.
    """
    return torch.cuda.Stream(device)


class Transfer:
    """Hands tensors over to a GPU; the call comes when all work on those before has been given to the device.

    Python never gets further ahead of the device than `ON_DEVICE` allows.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._passed: deque[Any] = deque()  # an event for each batch, behind the work on it

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        """The tensors, pinned, as the device's current stream will find them."""
        current, copying = torch.cuda.current_stream(self.device), copy_stream(self.device)
        self._passed.append(current.record_event())
        if len(self._passed) == ON_DEVICE:
            self._passed.popleft().synchronize()  # the device still has the batch after that to compute with
        with torch.cuda.stream(copying):
            moved = [tensor.to(self.device, non_blocking=True) for tensor in tensors]
        current.wait_event(copying.record_event())
        for tensor in moved:
            tensor.record_stream(current)  # else its memory would be the copying stream's again as soon as it is dropped
        return moved
