"""Time that a device spends, measured without waiting for it."""

import time
from typing import Any

import torch


class Stopwatch:
    """Adds up spans of time.

    On a GPU a point in time is an event of its current stream, and is read late: Python runs ahead of the device, so
    its own clock would say when work was handed over and not when it was done. Elsewhere it is Python's clock.

    Args:
        device: whose time it is.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self._spans: list[tuple[Any, Any]] = []
        self._total_s = 0.0

    def now(self) -> Any:
        """This point in time."""
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def add(self, start: Any, end: Any) -> None:
        """Counts the time between two points."""
        self._spans.append((start, end))

    @property
    def total_s(self) -> float:
        """Seconds of all spans so far. Waits for the device."""
        spans, self._spans = self._spans, []
        for start, end in spans:
            if self.on_gpu:
                end.synchronize()
                self._total_s += start.elapsed_time(end) / 1000
            else:
                self._total_s += end - start
        return self._total_s
