"""How much memory a training step takes, said before it is taken.

On a GPU too much is an exception; on the CPU it is a kill. So the step is run on fake tensors first:
shapes and lifetimes without data, on any machine, in seconds.
"""

import contextlib
import logging
import os
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hct_lightning.data.reading.geometry import Size
from hct_lightning.models import FromPixels

log = logging.getLogger(__name__)

Memory = Literal["speed", "low"]
HEAP_BLOCK = 32 * 2**20  # bytes: glibc's DEFAULT_MMAP_THRESHOLD_MAX
HEAP_GAPS = 1.5  # the heap over what is alive in it, measured: task=benchmark benchmark=memory
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class MemoryPlan(NamedTuple):
    """How a rank takes its share of a global batch.

    micro_batches: parts that go forward and backward one after the other.
    memory: `speed` keeps what the backward pass needs, `low` computes most of it again.
    """

    micro_batches: int
    memory: Memory


class StepMemory(NamedTuple):
    """The most bytes that a training step takes at once.

    tensors: alive at the same time, with weights, gradients, Adam's moments and the batch: what a GPU
        must have free, beside what its libraries take.
    resident: by how much the resident set of a process grows on the CPU under glibc.
    """

    tensors: int
    resident: int

    def on(self, device_type: str) -> int:
        return self.resident if device_type == "cpu" else self.tensors


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive, on fake tensors as on real ones.

    glibc takes larger blocks from the system and gives them back; smaller ones lie in its heap,
    which never shrinks for long. So the two have their high-water marks apart.
    """

    def __init__(self) -> None:
        super().__init__()
        self._storages: dict[int, weakref.ref] = {}
        self._small = self._large = 0
        self.most = self.most_small = self.most_large = 0

    def add(self, tensor: torch.Tensor) -> None:
        """Counts the storage of a tensor until it is freed."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._storages:
            self._storages[key] = weakref.ref(storage, lambda _: self._forget(key, size))
            self._count(size)
            self.most = max(self.most, self._small + self._large)

    def _forget(self, key: int, size: int) -> None:
        del self._storages[key]
        self._count(-size)

    def _count(self, size: int) -> None:
        if abs(size) > HEAP_BLOCK:
            self._large += size
        else:
            self._small += size
        self.most_small = max(self.most_small, self._small)
        self.most_large = max(self.most_large, self._large)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.add(leaf)
        return out


def step_memory(
    build: Callable[[], FromPixels],
    *,
    channels: int,
    size: Size,
    batch: int,
    precision: str,
    memory: Memory = "speed",
) -> StepMemory:
    """The peak of a whole training step: weights, gradients, Adam's moments, activations, batch.

    Args:
        build: gives the network, from uint8 images to logits.
        channels: of the images.
        size: (height, width) of the images.
        batch: images that go forward and backward together.
        precision: Lightning's name.
        memory: `speed` or `low`.

    Raises:
        ValueError: when the network can't do with `low`.
    """
    dtype = AUTOCAST.get(precision)
    network = build().to(memory_format=torch.channels_last)
    if memory == "low":
        network.set_grad_checkpointing()
    with FakeTensorMode() as fake:
        network._apply(fake.from_tensor)
        optimizer = torch.optim.Adam(network.parameters())
        live = LiveBytes()
        for tensor in (*network.parameters(), *network.buffers()):
            live.add(tensor)
        with live:
            for parameter in network.parameters():  # Adam's moments come with the first step
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
            optimizer.zero_grad()
            images = torch.empty((batch, *size, channels), dtype=torch.uint8)
            labels = torch.zeros(batch, dtype=torch.long)
            with torch.autocast("cpu", dtype, enabled=dtype is not None):
                logits = network(images.permute(0, 3, 1, 2))
            F.cross_entropy(logits.float(), labels).backward()
            optimizer.step()
    return StepMemory(live.most, int(HEAP_GAPS * live.most_small) + live.most_large)


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


def fewest_micro_batches(peak_bytes: Callable[[int], int], share: int, available: int, *, reserve: float = 0.2) -> int:
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
    share: int,
    *,
    memory: str,
    micro_batches: int | str,
    build: Callable[[], FromPixels],
    channels: int,
    size: Size,
    batch_size: int,
    ranks_here: int,
    precision: str,
) -> MemoryPlan:
    """How a rank takes its `share` of a global batch.

    At most `batch_size` images at a time, fewer where the memory asks for it. `auto` recomputes only
    where it can then take more images at a time: BatchNorm sees what it would have seen with enough
    memory. The estimate takes seconds and is made only where a network seven times as hungry as HCT
    would not fit anyway.

    Args:
        device: that the rank trains on.
        share: images of a rank per optimiser step.
        memory: the option of this name: `speed`, `auto` or `low`.
        micro_batches: the option `trainer.accumulate_grad_batches`: a number or `auto`.
        build: gives the network.
        channels: of the images.
        size: (height, width) of the images.
        batch_size: the option `data.batch_size`.
        ranks_here: ranks that share this machine's memory.
        precision: Lightning's name.

    Raises:
        ValueError: for an unknown `memory` or number of micro-batches; when the network can't
            recompute; when one image alone is too much.
    """
    if memory not in ("speed", "auto", "low"):
        raise ValueError(f"memory={memory}: choose speed, auto or low")
    fixed = micro_batches != "auto"
    wanted = int(micro_batches) if fixed else -(-share // batch_size)
    if wanted < 1:
        raise ValueError(f"trainer.accumulate_grad_batches={micro_batches}: give at least 1, or auto")
    height, width = size
    available = available_bytes(device, ranks_here)
    plenty = -(-share // wanted) * height * width * 500 < available
    if plenty or (fixed and memory != "auto"):
        return MemoryPlan(wanted, "low" if memory == "low" else "speed")
    log.info("estimating the memory of a training step ...")
    plans, refusal = [], None
    for mode in ("speed", "low") if memory == "auto" else (memory,):
        step = partial(step_memory, build, channels=channels, size=size, precision=precision, memory=mode)
        try:
            parts = fewest_micro_batches(lambda batch, step=step: step(batch=batch).on(device.type), share, available)
        except ValueError as error:
            refusal = refusal or error
            continue
        plans.append(MemoryPlan(max(wanted, parts), mode))
        if parts <= wanted:
            break
    if not plans:
        raise refusal
    best = min(plans, key=lambda plan: plan.micro_batches)
    return best._replace(micro_batches=wanted) if fixed else best
