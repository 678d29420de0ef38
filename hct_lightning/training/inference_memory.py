"""How many images go through a network at a time when it only answers."""

import logging
from collections.abc import Callable

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hct_lightning.data.reading.geometry import Size
from hct_lightning.models import FromPixels
from hct_lightning.training.memory import Allocations
from hct_lightning.training.memory_plan import available_bytes
from hct_lightning.training.step import TrainingStep

log = logging.getLogger(__name__)

PLENTY = 2000  # bytes a pixel, four times what vgg16_bn takes in fp32: with so much nothing is estimated
SHARE = 0.5  # of the memory available, for tensors: batches are read ahead, and allocators leave gaps


def inference_bytes(build: Callable[[], FromPixels], *, channels: int, size: Size, precision: str) -> int:
    """The most that is alive at once when one image goes through: weights, activations, image. Found on fake tensors.

    Args:
        build: gives the network, from uint8 images to logits.
        channels: of the images.
        size: (height, width) of the images.
        precision: Lightning's name.
    """
    network = build().to(memory_format=torch.channels_last).eval()
    with FakeTensorMode() as fake, torch.no_grad():
        network._apply(fake.from_tensor)
        taken = Allocations()
        for tensor in (*network.parameters(), *network.buffers()):
            taken.add(tensor)
        with taken:
            image = torch.empty((1, *size, channels), dtype=torch.uint8).permute(0, 3, 1, 2)
            TrainingStep(network, precision=precision).forward(image)
    return taken.most


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
    log.info("estimating the memory of an image ...")
    one = inference_bytes(build, channels=channels, size=size, precision=precision)
    if one > available:
        raise ValueError(
            f"an image of {height}x{width} takes about {one / 2**30:.1f} GiB in the network; "
            f"{available / 2**30:.1f} GiB are available to each rank. Use fewer trainer.devices on this machine, or a "
            "smaller data.resolution"
        )
    return min(batch_size, max(1, int(SHARE * available / one)))
