"""How large a network is: parameters and multiplications, counted without computing."""

import logging
from collections.abc import Callable

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from hct_lightning.data.reading.geometry import Size
from hct_lightning.models import FromPixels

log = logging.getLogger(__name__)


def network_size(build: Callable[[], FromPixels], *, channels: int, size: Size) -> dict[str, float | None]:
    """`parameters`, and `gmac`: 10^9 multiply-adds of convolutions and matrices for one image.

    Args:
        build: gives the network.
        channels: of an image.
        size: of an image.

    Returns:
        None where a network can't be run on tensors without memory.
    """
    try:
        network = build().eval()
        with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
            network(torch.empty((1, channels, *size), dtype=torch.uint8))
    except Exception as error:  # of any network; nothing else depends on it
        log.debug("the network's size is not known: %s", error)
        return {"parameters": None, "gmac": None}
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "gmac": counter.get_total_flops() / 2e9,
    }
