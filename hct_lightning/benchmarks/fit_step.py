"""The training step of `task=fit` without its trainer, for the sides that are ours; on the device that it would take.

Its optimiser is AdamW and no block is dropped (`optim=adamw drop_path_rate=0`): the steps that are written plainly have
Adam, and drop none.
"""

from collections.abc import Callable
from typing import Any

import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from torch import Tensor

from hct_lightning.data.dataset import IMAGENET_MEAN, IMAGENET_STD
from hct_lightning.machine import runtime
from hct_lightning.machine.devices import best_device, synchronise
from hct_lightning.training.fast_stem import with_fast_stem
from hct_lightning.training.memory import Memory
from hct_lightning.training.spec import build_network
from hct_lightning.training.step import TrainingStep


def comparable_step(
    memory: Memory = "speed", *, channels: int = 3, classes: int = 4, precision: str | None = None
) -> tuple[TrainingStep, dict[str, Any]]:
    """A step with the network, precision and settings of the process that `task=fit` has, on its device.

    Returns:
        The step, and facts about it.
    """
    with initialize_config_module("hct_lightning.conf", version_base="1.3"):
        cfg = compose("config", ["optim=adamw", "drop_path_rate=0"])
    runtime.configure(cfg.runtime)
    torch.manual_seed(0)
    device = best_device()
    mean, std = IMAGENET_MEAN[:channels], IMAGENET_STD[:channels]
    network = build_network(cfg.model, channels=channels, classes=classes, mean=mean, std=std).to(device)
    if memory == "low":
        network.set_grad_checkpointing()
    with_fast_stem(network, device.type)
    fused = {"fused": True} if device.type == "cuda" else {}
    optimizer = instantiate(cfg.optim.optimizer)(network.parameters(), lr=cfg.optim.lr, **fused)
    precision = runtime.resolve_precision(precision or cfg.trainer.precision, device.type)
    facts = {"device": device.type, "precision": precision, "threads": torch.get_num_threads()}
    return TrainingStep(network, optimizer, precision=precision), facts


def random_batch(batch_size: int, resolution: int, channels: int = 3) -> tuple[Tensor, Tensor]:
    """Images, b c h w uint8 as they are read, and labels; pinned where there is a GPU to copy them to."""
    shape = (batch_size, channels, resolution, resolution)
    images = torch.empty(shape, dtype=torch.uint8, memory_format=torch.channels_last).random_(256)
    batch = images, torch.zeros(batch_size, dtype=torch.long)
    return (batch[0].pin_memory(), batch[1].pin_memory()) if best_device().type == "cuda" else batch


def work_of(step: TrainingStep, batch: tuple[Tensor, Tensor]) -> Callable[[], None]:
    """A step as a benchmark times it: from the host's memory to the end of the device's work."""
    device = next(step.network.parameters()).device

    def work() -> None:
        step(*(part.to(device, non_blocking=True) for part in batch))
        synchronise(device)

    return work
