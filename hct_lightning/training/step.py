"""A training step without a trainer, for what predicts or measures it."""

import statistics
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hct_lightning.machine.devices import synchronise

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class TrainingStep:
    """Forward, zero gradients, backward, optimiser step: Lightning's order.

    Args:
        network: from uint8 images, b c h w, to logits, b classes.
        optimizer: of its parameters; Adam by default.
        precision: Lightning's name.
        keeps_gradients: sets them to zero and not to None, so that they stay in memory as with micro-batches or DDP.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        precision: str = "32-true",
        keeps_gradients: bool = False,
    ) -> None:
        self.network = network
        self.optimizer = optimizer or torch.optim.Adam(network.parameters())
        self.dtype = AUTOCAST.get(precision)
        self.keeps_gradients = keeps_gradients

    def forward(self, images: Any) -> Tensor:
        device = images.device if isinstance(images, Tensor) else next(self.network.parameters()).device
        with torch.autocast(device.type, self.dtype, enabled=self.dtype is not None):
            return self.network(images)

    def __call__(self, images: Any, labels: Tensor) -> None:
        """`images`: b c h w uint8, or one that is read by region where the network streams."""
        loss = F.cross_entropy(self.forward(images).float(), labels)
        self.optimizer.zero_grad(set_to_none=not self.keeps_gradients)
        loss.backward()
        self.optimizer.step()


def step_seconds(network: nn.Module, *, channels: int, side: int, device: torch.device, precision: str) -> float:
    """The median time of a step with two square images (BatchNorm needs two), after two that warm up.

    Args:
        network: on `device`.
        channels: of the images.
        side: of the images, pixels.
        device: that computes.
        precision: Lightning's name.
    """
    step = TrainingStep(network, precision=precision)
    images = torch.randint(0, 256, (2, side, side, channels), dtype=torch.uint8, device=device).permute(0, 3, 1, 2)
    labels = torch.zeros(2, dtype=torch.long, device=device)
    seconds = []
    for _ in range(7):
        synchronise(device)
        start = time.perf_counter()
        step(images, labels)
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])
