"""PyTorch's profiler, with communication and computation told apart."""

from collections.abc import Iterable

import torch
from lightning.pytorch.profilers import PyTorchProfiler

Interval = tuple[float, float]

_COLLECTIVES = ("gloo:", "nccl:", "ncclDevKernel", "ncclKernel")
_STEP = "[pl][profile]run_training_batch"


class StepProfiler(PyTorchProfiler):
    """Lightning's PyTorchProfiler whose summary begins with what the ranks' exchange costs.

    Per training batch of the profiled ones: how long operators computed, how long gradients and
    the like were exchanged, and how much of that had no computation to hide behind.
    """

    def summary(self) -> str:
        table = super().summary()
        events = self.function_events or ()
        steps = [(e.time_range.start, e.time_range.end) for e in events if e.name == _STEP]
        on_gpu = any(e.device_type == torch.autograd.DeviceType.CUDA for e in events)
        if on_gpu:
            events = [e for e in events if e.device_type == torch.autograd.DeviceType.CUDA]
        exchange, compute = [], []
        for event in events:
            interval = event.time_range.start, event.time_range.end
            if event.name.startswith(_COLLECTIVES):
                exchange.append(interval)
            elif on_gpu or event.name.startswith("aten::"):
                compute.append(interval)
        if not steps:
            return table
        computing, exchanging = union_us(compute), union_us(exchange)
        hidden = computing + exchanging - union_us(compute + exchange)
        parts = {
            "computation": computing,
            "communication": exchanging,
            "  hidden behind computation": hidden,
            "  exposed": exchanging - hidden,
        }
        lines = [f"{name:<28}{total / len(steps) / 1000:10.2f} ms" for name, total in parts.items()]
        return "\n".join([f"Per training batch, of {len(steps)}:", *lines, "", table])


def union_us(intervals: Iterable[Interval]) -> float:
    """How long at least one of the intervals lasts."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
