"""How well the memory of a training step is predicted: networks, sizes, batches, precisions, with and without recomputing.

Each step is taken in a process of its own. Before, it takes a few small ones, so that libraries and threads are there.
Measured is then the high-water mark of the resident set above what it was, with large blocks mapped, so that it has no
gaps; or on a GPU what is allocated for tensors.
"""

import ctypes
import gc
import logging
import multiprocessing
import random
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import timm
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hct_lightning.benchmarks.fit_step import random_batch
from hct_lightning.data.dataset import IMAGENET_MEAN, IMAGENET_STD
from hct_lightning.machine import runtime
from hct_lightning.models import HCT, FromPixels
from hct_lightning.training.fast_stem import with_fast_stem
from hct_lightning.training.memory import Memory, StepMemory, step_memory
from hct_lightning.training.step import TrainingStep

log = logging.getLogger(__name__)
R = TypeVar("R")
MIB = 2**20


class Point(NamedTuple):
    """A training step of the grid."""

    network: str
    px: int
    batch: int
    precision: str
    memory: Memory

    def build(self, device_type: str) -> FromPixels:
        if self.network == "hct":
            network = HCT()
        elif self.network == "hct_cnn":  # the article's pure-CNN twin
            network = HCT(conv_stages=5)
        else:
            network = timm.create_model(self.network, num_classes=4)
        return with_fast_stem(FromPixels(network, IMAGENET_MEAN, IMAGENET_STD), device_type)

    def predicted(self, device_type: str) -> StepMemory:
        build, size = partial(self.build, device_type), (self.px, self.px)
        return step_memory(build, channels=3, size=size, batch=self.batch, precision=self.precision, memory=self.memory)

    def predicted_bytes(self, device_type: str) -> int:
        """Of what `measured_bytes` measures."""
        predicted = self.predicted(device_type)
        return predicted.resident if device_type == "cpu" else predicted.tensors


def benchmark(
    *,
    networks: Sequence[str],
    resolutions: Sequence[int],
    batch_sizes: Sequence[int],
    precisions: Sequence[str],
    memories: Sequence[Memory],
    points: int,
    largest_gib: float,
    seed: int,
) -> dict[str, Any]:
    """Measures and gives the ratios `within_10_percent` and `worst`, and a row per step.

    Args:
        networks: `hct`, `hct_cnn`, or names of timm.
        resolutions: pixels a side.
        batch_sizes: images of a step.
        precisions: Lightning's names.
        memories: `speed`, `low`.
        points: how many of all combinations are taken, at random; those that can't be trained on are left out.
        largest_gib: combinations that are predicted to take more are left out.
        seed: of what is taken.

    Raises:
        ValueError: where memory can't be measured.
    """
    device = runtime.resolve_accelerator("auto")
    if device != "cuda" and sys.platform != "linux":
        raise ValueError("benchmark=memory_grid reads Linux' /proc, or needs a CUDA GPU")
    every = [Point(*point) for point in product(networks, resolutions, batch_sizes, precisions, memories)]
    random.Random(seed).shuffle(every)
    rows: list[dict[str, Any]] = []
    for point in every:
        if len(rows) == points:
            break
        try:
            predicted = point.predicted_bytes(device)
        except ValueError as error:  # BatchNorm needs more than one value; not every network can recompute
            log.info("left out: %s %d px, batch %d, %s: %s", *point[:3], point.memory, error)
            continue
        if predicted <= largest_gib * 2**30:
            measured = in_a_fresh_process(measured_bytes, point, device)
            sizes = {"predicted_mib": predicted / MIB, "measured_mib": measured / MIB}
            rows.append(point._asdict() | sizes | {"error_percent": 100 * (predicted / measured - 1)})
            log.info("%s", rows[-1])
    errors = [abs(row["error_percent"]) for row in rows]
    return {
        "title": f"The memory of a training step on {device}: predicted and measured",
        "ratios": {
            "within_10_percent": sum(error <= 10 for error in errors) / len(errors),
            "worst": max(errors) / 100,
        },
        "rows": sorted(rows, key=lambda row: abs(row["error_percent"])),
    }


def in_a_fresh_process(function: Callable[..., R], *arguments: Any) -> R:
    """What a function gives in a process that has imported everything and done nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, context) as fresh:
        return fresh.submit(function, *arguments).result()


def measured_bytes(point: Point, device_type: str) -> int:
    """What two steps take, in a process that has done nothing yet."""
    runtime.map_blocks()
    device = torch.device(device_type)
    take = partial(take_steps, point, device)
    take(128)
    gc.collect()
    if device_type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        take(point.px)
        return torch.cuda.max_memory_allocated(device)
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    with Watching() as watching:
        take(point.px)
    return max(watching.most, status_bytes("VmHWM")) - before


class Watching(TorchDispatchMode):
    """Looks at the resident set after each operation: Linux' high-water mark is off by MBs a CPU that was used."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.most = max(self.most, status_bytes("VmRSS"))
        return out


def take_steps(point: Point, device: torch.device, px: int) -> None:
    network = point.build(device.type).to(device).to(memory_format=torch.channels_last)
    if point.memory == "low":
        network.set_grad_checkpointing()
    images, labels = (part.to(device) for part in random_batch(max(2, point.batch) if px == 128 else point.batch, px))
    step = TrainingStep(network, precision=point.precision)
    for _ in range(2):
        step(images, labels)


def status_bytes(field: str) -> int:
    """A figure of this process: `VmRSS` or `VmHWM`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
