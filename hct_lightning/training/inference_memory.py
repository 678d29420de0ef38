"""How many images go through a network at a time when it only answers."""

import logging
from collections.abc import Callable
from functools import cache

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hct_lightning.data.reading.geometry import Size
from hct_lightning.models import FromPixels
from hct_lightning.training.memory import LiveBytes, StepMemory
from hct_lightning.training.memory_plan import available_bytes, fewest_micro_batches
from hct_lightning.training.step import TrainingStep

log = logging.getLogger(__name__)

PLENTY = 500  # bytes a pixel: nobody asks for an estimate where a hungry network has enough


def inference_memory(
    build: Callable[[], FromPixels], *, channels: int, size: Size, batch: int, precision: str
) -> StepMemory:
    """The peak of a batch without gradients: weights, activations, batch. Found as `step_memory` finds it.

    Args:
        build: gives the network, from uint8 images to logits.
        channels: of the images.
        size: (height, width) of the images.
        batch: images at a time.
        precision: Lightning's name.
    """
    network = build().to(memory_format=torch.channels_last).eval()
    with FakeTensorMode() as fake, torch.no_grad():
        network._apply(fake.from_tensor)
        live = LiveBytes()
        for tensor in (*network.parameters(), *network.buffers()):
            live.add(tensor)
        with live:
            images = torch.empty((batch, *size, channels), dtype=torch.uint8).permute(0, 3, 1, 2)
            TrainingStep(network, precision=precision).forward(images)
    return live.peak()


def images_at_a_time(
    device: torch.device,
    *,
    batch_size: int,
    micro_batches: int | str,
    ranks_here: int,
    build: Callable[[], FromPixels],
    channels: int,
    size: Size,
    precision: str,
) -> int:
    """A batch, or as much of it as `micro_batches` says: a number, or `auto` for what fits the memory.

    Args:
        device: that a rank computes on.
        batch_size: the most.
        micro_batches: the option of this name.
        ranks_here: ranks that share this machine's memory.
        build: gives the network.
        channels: of the images.
        size: (height, width) of the images.
        precision: Lightning's name.

    Raises:
        ValueError: when one image alone is too much.
    """
    if micro_batches != "auto":
        return max(1, batch_size // int(micro_batches))
    available = available_bytes(device, ranks_here)
    height, width = size
    if batch_size * height * width * PLENTY < available:
        return batch_size

    @cache
    def peak(batch: int) -> int:
        return inference_memory(build, channels=channels, size=size, batch=batch, precision=precision).on(device.type)

    log.info("estimating the memory of a batch ...")
    try:
        parts = fewest_micro_batches(peak, batch_size, available)
    except ValueError as error:
        raise ValueError(
            f"an image of {height}x{width} takes about {peak(1) / 2**30:.1f} GiB in the network; "
            f"{available / 2**30:.1f} GiB are available to each rank. Use fewer trainer.devices on this machine, or a "
            "smaller data.resolution"
        ) from error
    return -(-batch_size // parts)
