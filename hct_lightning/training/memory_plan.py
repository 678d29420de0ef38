"""How a rank takes its share of a global batch within the memory there is."""

import contextlib
import logging
import os
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from hct_lightning.data.reading.geometry import Size
from hct_lightning.machine.allocators import pinned_bytes
from hct_lightning.machine.cgroups import memory_left
from hct_lightning.training.memory import STREAM_TILE, Memory, StepMemory

log = logging.getLogger(__name__)

RESERVE = 0.2  # of the memory: twice the error that predictions keep, benchmark=memory_grid says how often
GAPS = 2.2  # a heap that is kept over the tensors in it, at most: measured 1.4 to 2.1
# Bytes a pixel, 18 times what resnet50 takes in fp32. A run for which even that is there is not estimated.
MOST_PER_PIXEL = 2**15


class MemoryPlan(NamedTuple):
    """How a rank takes its share of a global batch.

    micro_batches: parts that go forward and backward one after the other.
    memory: `speed` keeps what the backward pass needs, `low` computes most of it again, `stream` also divides the image.
    maps_blocks: freed tensors go back to the system at once, for there is no room for gaps between them.
    """

    micro_batches: int
    memory: Memory
    maps_blocks: bool = False

    def to_take_less(self, share: int, size: Size) -> str:
        """What helps when memory does not suffice for it, in numbers.

        Args:
            share: images of a rank per optimiser step.
            size: (height, width) of the images.
        """
        smaller = [max(128, 3 * side // 4 // 32 * 32) for side in size]
        ways = [f"micro_batches={min(share, 2 * self.micro_batches)}"] if self.micro_batches < share else []
        ways += ["memory=low"] if self.memory == "speed" else []
        ways += ["memory=stream recipe=plain"] if self.memory == "low" and min(size) > STREAM_TILE else []
        ways += [f"data.resolution={smaller[0] if len({*smaller}) == 1 else str(smaller).replace(' ', '')}"]
        return f"use {' or '.join(ways)}"


class Feeding(NamedTuple):
    """What feeding batches takes beside the one that is trained on.

    on_host: batches that are read ahead, by the images of a batch. For a GPU they are pinned, and so is the one that
        is being copied.
    on_device: batches on their way to a GPU, or waiting there.
    augmenting: bytes that augmentation takes beside a batch, by its images.
    """

    on_host: Callable[[int], int] = lambda images: 0
    on_device: int = 0
    augmenting: Callable[[int], int] = lambda images: 0


class Room(NamedTuple):
    """What a rank may take.

    device: where it trains: `cpu`, `cuda` or `mps`.
    bytes: of that device's memory.
    on_host: bytes of the machine's memory.
    """

    device: str
    bytes: int
    on_host: int

    def holds(self, size: int, pinned: int = 0) -> bool:
        """Whether so many bytes fit, and for a GPU those that are pinned, with the reserve to spare."""
        on_host = pinned if self.device == "cuda" else 0
        return size <= (1 - RESERVE) * self.bytes and on_host <= (1 - RESERVE) * self.on_host


def available_bytes(device: torch.device, ranks_here: int) -> int:
    """Memory that one rank may still take: of its GPU, or its share of this machine, container or job."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    if (left := memory_left()) is not None:
        free = min(free, left)
    if device.type == "mps":
        free = min(free, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return free // ranks_here


def choose_memory(
    device: torch.device,
    *,
    global_batch: int,
    ranks: int,
    ranks_here: int,
    memory: Memory | Literal["auto"],
    micro_batches: int | str,
    step: Callable[..., StepMemory],
    pixels: int,
    channels: int,
    batch_size: int,
    feeding: Feeding,
) -> MemoryPlan:
    """How every rank takes its share of a global batch.

    At most `batch_size` images at a time, fewer where the memory asks for it. `auto` recomputes only
    where it can then take more images at a time: BatchNorm sees what it would have seen with enough
    memory. The estimate takes seconds and is made only where a network as hungry as any might not fit.

    Args:
        device: that a rank trains on.
        global_batch: images per optimiser step.
        ranks: that share them.
        ranks_here: ranks that share this machine's memory.
        memory: the option of this name: `speed`, `auto`, `low` or `stream`.
        micro_batches: the option of this name: a number or `auto`.
        step: `step_memory` of the network and its images.
        pixels: of an image.
        channels: likewise.
        batch_size: the option `data.batch_size`.
        feeding: what comes on top of a step.

    Raises:
        ValueError: for an unknown `memory` or number of micro-batches; when the network can't
            recompute; when one image alone is too much.
    """
    share = -(-global_batch // ranks)  # the largest; shares differ by one when ranks do not divide the batch
    if memory not in ("speed", "auto", "low", "stream"):
        raise ValueError(f"memory={memory}: choose speed, auto, low or stream")
    chosen: Memory = memory if memory in ("low", "stream") else "speed"
    fixed = micro_batches != "auto"
    wanted = parts_wanted(micro_batches, share, batch_size)
    at_once = -(-share // wanted)
    room = Room(device.type, available_bytes(device, ranks_here), available_bytes(torch.device("cpu"), ranks_here))

    @cache
    def taken(mode: Memory, images: int) -> int:
        return step(
            batch=images,
            memory=mode,
            keeps_gradients=ranks > 1 or images < share,
            ahead=feeding.on_host(images) if device.type == "cpu" else feeding.on_device,
            augmenting=feeding.augmenting(images),
        ).on(device.type)

    def fits(mode: Memory, images: int) -> bool:
        return room.holds(taken(mode, images), (feeding.on_host(images) + 1) * pinned_bytes(images * channels * pixels))

    if room.holds(at_once * pixels * MOST_PER_PIXEL) or (fixed and memory in ("speed", "low")):
        plan = MemoryPlan(wanted, chosen)
    else:
        log.info("estimating the memory of a training step ...")
        plan = fewest_parts(fits, share, at_once, memory)
        if plan is None:
            raise ValueError(
                f"a training step with one image takes about {taken(chosen, 1) / 2**30:.1f} GiB; "
                f"{room.bytes / 2**30:.1f} GiB are available to each rank. Use memory=low, memory=stream recipe=plain (HCT), a "
                "smaller data.resolution, fewer trainer.devices on this machine, or trainer.precision=bf16-mixed"
            )
        plan = plan._replace(micro_batches=wanted if fixed else max(wanted, plan.micro_batches))
        gaps = int(GAPS * taken(plan.memory, -(-share // plan.micro_batches)))
        plan = plan._replace(maps_blocks=device.type == "cpu" and not room.holds(gaps))
    smallest = max(1, global_batch // ranks)  # share, which has as many parts as the others
    if smallest < plan.micro_batches <= share:  # of more parts than images the sampler says why it can't be
        together = -(-share // smallest)
        if not (room.holds(together * pixels * MOST_PER_PIXEL) or fits(plan.memory, together)):
            raise ValueError(_undivided(ranks, global_batch, plan.micro_batches, together))
        plan = plan._replace(micro_batches=smallest)
    return plan


def _undivided(ranks: int, global_batch: int, parts: int, together: int) -> str:
    return (
        f"{ranks} ranks can't share a global batch of {global_batch} in {parts} parts each, and there is no memory for "
        f"{together} images at a time; use a number of trainer.devices that divides it, or a smaller data.resolution"
    )


def parts_wanted(micro_batches: int | str, share: int, batch_size: int) -> int:
    """Into how many parts a share of a global batch is divided where memory is plenty.

    Raises:
        ValueError: for another option than a number or `auto`.
    """
    if micro_batches == "auto":
        return -(-share // batch_size)
    if not isinstance(micro_batches, int) or micro_batches < 1:
        raise ValueError(f"micro_batches={micro_batches}: give at least 1, or auto")
    return micro_batches


def fewest_parts(
    fits: Callable[[Memory, int], bool], share: int, at_once: int, memory: Memory | Literal["auto"]
) -> MemoryPlan | None:
    """In how few parts a rank can see its share of a global batch; None when not even one image fits.

    Recomputes where that makes them fewer.

    Args:
        fits: whether so many images at a time do.
        share: images of this rank per optimiser step.
        at_once: the most of them that are wanted at a time.
        memory: `speed`, `auto`, `low` or `stream`.

    Raises:
        ValueError: when the network can't do with `low` or `stream`, and has to.
    """
    plans: list[MemoryPlan] = []
    modes: Sequence[Memory] = ("speed", "low") if memory == "auto" else (memory,)
    for mode in modes:
        try:
            images = _most(at_once, partial(fits, mode))
        except ValueError:
            if memory != "auto":
                raise
            continue  # a network that can't recompute
        if images:
            plans.append(MemoryPlan(-(-share // images), mode))
        if images == at_once:
            break
    return min(plans, key=lambda plan: plan.micro_batches, default=None)


def _most(limit: int, fits: Callable[[int], bool]) -> int:
    """The most images up to `limit` that fit, by bisection; 0 when one does not."""
    if fits(limit):
        return limit
    return bisect_left(range(1, limit), True, key=lambda images: not fits(images))
