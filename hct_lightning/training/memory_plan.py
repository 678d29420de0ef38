"""How a rank takes its share of a global batch within the memory there is."""

import contextlib
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from hct_lightning.data.reading.geometry import Size
from hct_lightning.models import FromPixels
from hct_lightning.training.memory import Memory, StepMemory, step_memory

log = logging.getLogger(__name__)

# Of the memory: on a card for the CUDA context, the libraries' workspaces and gaps between tensors.
RESERVE = 0.2


class MemoryPlan(NamedTuple):
    """How a rank takes its share of a global batch.

    micro_batches: parts that go forward and backward one after the other.
    memory: `speed` keeps what the backward pass needs, `low` computes most of it again.
    """

    micro_batches: int
    memory: Memory


def available_bytes(device: torch.device, ranks_here: int) -> int:
    """Memory that one rank may still take: of its GPU, or its share of this machine or container."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    with contextlib.suppress(OSError, ValueError):  # a container's limit, where there is one
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        free = min(free, limit - int((group / "memory.current").read_text()))
    return free // ranks_here


def fewest_micro_batches(
    peak_bytes: Callable[[int], int], share: int, available: int, *, reserve: float = RESERVE
) -> int:
    """In how many parts a rank must see its share of a global batch to stay within memory.

    Args:
        peak_bytes: the peak of a step with so many images.
        share: images of this rank per optimiser step.
        available: bytes.
        reserve: part of them that is left alone.

    Raises:
        ValueError: when one image alone is too much, with what would help.
    """
    budget = (1 - reserve) * available
    # The peak is linear in the batch, but for what doesn't depend on it.
    one = peak_bytes(1)
    per_image = peak_bytes(2) - one if share > 1 else one
    fits = 1 + int((budget - one) // max(per_image, 1))
    if fits < 1:
        raise ValueError(
            f"a training step with one image takes about {one / 2**30:.1f} GiB; "
            f"{available / 2**30:.1f} GiB are available to each rank. "
            "Use memory=low, a smaller data.resolution, fewer trainer.devices on this machine, "
            "or trainer.precision=bf16-mixed"
        )
    return -(-share // fits)


def choose_memory(
    device: torch.device,
    *,
    global_batch: int,
    ranks: int,
    ranks_here: int,
    memory: str,
    micro_batches: int | str,
    build: Callable[[], FromPixels],
    channels: int,
    size: Size,
    batch_size: int,
    precision: str,
) -> MemoryPlan:
    """How every rank takes its share of a global batch.

    At most `batch_size` images at a time, fewer where the memory asks for it. `auto` recomputes only
    where it can then take more images at a time: BatchNorm sees what it would have seen with enough
    memory. The estimate takes seconds and is made only where a network seven times as hungry as HCT
    would not fit anyway.

    Args:
        device: that a rank trains on.
        global_batch: images per optimiser step.
        ranks: that share them.
        ranks_here: ranks that share this machine's memory.
        memory: the option of this name: `speed`, `auto` or `low`.
        micro_batches: the option of this name: a number or `auto`.
        build: gives the network.
        channels: of the images.
        size: (height, width) of the images.
        batch_size: the option `data.batch_size`.
        precision: Lightning's name.

    Raises:
        ValueError: for an unknown `memory` or number of micro-batches; when the network can't
            recompute; when one image alone is too much.
    """
    share = -(-global_batch // ranks)  # the largest; shares differ by one when ranks do not divide the batch
    if memory not in ("speed", "auto", "low"):
        raise ValueError(f"memory={memory}: choose speed, auto or low")
    fixed = micro_batches != "auto"
    wanted = micro_batches if isinstance(micro_batches, int) else 0 if fixed else -(-share // batch_size)
    if wanted < 1:
        raise ValueError(f"micro_batches={micro_batches}: give at least 1, or auto")
    height, width = size
    available = available_bytes(device, ranks_here)
    plenty = -(-share // wanted) * height * width * 500 < available
    if plenty or (fixed and memory != "auto"):
        plan = MemoryPlan(wanted, "low" if memory == "low" else "speed")
    else:
        log.info("estimating the memory of a training step ...")
        step = partial(step_memory, build, channels=channels, size=size, precision=precision)
        plan = _within(available, share, wanted, memory, step, device.type)
        plan = plan._replace(micro_batches=wanted) if fixed else plan
    if plan.micro_batches <= share:  # else the sampler says why it can't be
        plan = plan._replace(micro_batches=min(plan.micro_batches, max(1, global_batch // ranks)))
    return plan


def _within(
    available: int, share: int, wanted: int, memory: str, step: Callable[..., StepMemory], device_type: str
) -> MemoryPlan:
    """The plan of at least `wanted` parts that fits the bytes available; recomputing where that makes them fewer."""
    plans: list[MemoryPlan] = []
    refusals: list[ValueError] = []
    modes: tuple[Memory, ...] = ("speed", "low") if memory == "auto" else ("low" if memory == "low" else "speed",)
    for mode in modes:
        peak = partial(step, memory=mode)
        try:
            parts = fewest_micro_batches(lambda batch, peak=peak: peak(batch=batch).on(device_type), share, available)
        except ValueError as error:
            refusals.append(error)
            continue
        plans.append(MemoryPlan(max(wanted, parts), mode))
        if parts <= wanted:
            break
    if not plans:
        raise refusals[0]
    return min(plans, key=lambda plan: plan.micro_batches)
