"""How much memory a training step takes, said before it is taken.

On a GPU too much is an exception; on the CPU it is a kill. So the step is run on fake tensors first:
shapes and lifetimes without data, on any machine, in seconds.
"""

import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from hct_lightning.data.geometry import Size

log = logging.getLogger(__name__)

_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def step_peak_bytes(
    build: Callable[[], nn.Module], *, channels: int, size: Size, batch: int, precision: str
) -> int:
    """The peak of a whole training step: weights, gradients, Adam's moments, activations, batch.

    Args:
        build: gives the network, from uint8 images to logits.
        channels: of the images.
        size: (height, width) of the images.
        batch: images that go forward and backward together.
        precision: Lightning's name.
    """
    dtype = _AUTOCAST.get(precision)
    network = build().to(memory_format=torch.channels_last)
    with FakeTensorMode() as fake:
        network._apply(fake.from_tensor)
        optimizer = torch.optim.Adam(network.parameters())
        tracker = MemTracker()
        tracker.track_external(network, optimizer)
        with tracker:
            for _ in range(2):  # Adam's moments come with the first step
                images = torch.empty((batch, *size, channels), dtype=torch.uint8)
                labels = torch.zeros(batch, dtype=torch.long)
                with torch.autocast("cpu", dtype, enabled=dtype is not None):
                    logits = network(images.permute(0, 3, 1, 2))
                F.cross_entropy(logits.float(), labels).backward()
                optimizer.step()
                optimizer.zero_grad()
                tracker.reset_mod_stats()
        snapshot = tracker.get_tracker_snapshot("peak")
    return max(sizes["Total"] for sizes in snapshot.values())


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
    peak_bytes: Callable[[int], int], share: int, available: int, *, reserve: float = 0.2
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
            "Use a smaller data.resolution, fewer trainer.devices on this machine, "
            "or trainer.precision=bf16-mixed"
        )
    return -(-share // fits)


def choose_micro_batches(
    device: torch.device,
    share: int,
    *,
    build: Callable[[], nn.Module],
    channels: int,
    size: Size,
    batch_size: int,
    ranks_here: int,
    precision: str,
) -> int:
    """In how many parts a rank sees its `share` of a global batch.

    At most `batch_size` images at a time, fewer where the memory asks for it. The estimate takes
    seconds and is made only where a network seven times as hungry as HCT would not fit anyway.
    """
    wanted = -(-share // batch_size)
    available = available_bytes(device, ranks_here)
    height, width = size
    if min(share, batch_size) * height * width * 500 < available:
        return wanted
    log.info("estimating the memory of a training step ...")

    def peak(batch: int) -> int:
        return step_peak_bytes(
            build, channels=channels, size=size, batch=batch, precision=precision
        )

    return max(wanted, fewest_micro_batches(peak, share, available))
