"""What a training runs on: devices, and how its steps fit their memory."""

import logging
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

from hct_lightning.data.datamodule import ImageData
from hct_lightning.data.feeding.transfer import ON_DEVICE
from hct_lightning.machine import runtime
from hct_lightning.machine.devices import Devices, choose_devices
from hct_lightning.machine.ranks import from_rank_zero
from hct_lightning.models import FromPixels
from hct_lightning.training.fast_stem import make_fast, with_fast_stem
from hct_lightning.training.memory import Memory, set_memory, step_memory, tile_workers
from hct_lightning.training.memory_plan import Feeding, MemoryPlan, choose_memory

log = logging.getLogger(__name__)


def devices_of(
    accelerator: str, asked: Any, num_nodes: int, data: ImageData, *, global_batch: int | None = None
) -> Devices:
    """What to train on, with the global batch that the run began with, where it did.

    Args:
        accelerator: `trainer.accelerator`.
        asked: `trainer.devices`.
        num_nodes: `trainer.num_nodes`.
        data: what is trained on.
        global_batch: that the run began with; None for a new one.

    Raises:
        ValueError: when there are too few images for a global batch.
    """
    devices = choose_devices(accelerator, asked, num_nodes, data.batch_size)
    if devices.note:
        log.info(devices.note)
    if global_batch not in (None, devices.global_batch):
        log.info("this run has a global batch of %d, and keeps it", global_batch)
        devices = devices._replace(global_batch=global_batch)
    if len(data.dataset.catalogue.train) < devices.global_batch:
        raise ValueError(
            f"{len(data.dataset.catalogue.train)} training images are fewer than one global batch of "
            f"{devices.global_batch}; use a smaller data.batch_size or fewer trainer.devices"
        )
    return devices


def plan_memory(
    data: ImageData,
    devices: Devices,
    build: Callable[[], FromPixels],
    *,
    memory: Memory | Literal["auto"],
    micro_batches: int | str,
    precision: str,
    compiles: bool = False,
    earlier: Mapping[str, Any] | None = None,
) -> MemoryPlan:
    """How every rank takes its share of a global batch; rank 0 decides, for free memory differs.

    Args:
        data: what is trained on.
        devices: to run on.
        build: gives the network.
        memory: `auto`, `speed`, `low` or `stream`.
        micro_batches: `auto`, or their number.
        precision: Lightning's name for it, or `auto`.
        compiles: whether the step is compiled.
        earlier: the plan of the run that is resumed. On as many ranks it holds, whatever memory there is
            now: the weights would not be the same otherwise.

    Raises:
        ValueError: for options that do not go together.
    """
    if compiles:
        check_compiled(data, memory)
        memory = "speed"
    if earlier and earlier["ranks"] == devices.world:
        memory = earlier["memory"] if memory == "auto" else memory
        micro_batches = earlier["micro_batches"] if micro_batches == "auto" else micro_batches
    if data.dataset.reader.varies:
        micro_batches = alone(devices, micro_batches)
    channels, size = data.dataset.decoding.channels, data.dataset.size
    precision = runtime.resolve_precision(precision, devices.accelerator)

    def as_trained() -> FromPixels:
        return build() if compiles else with_fast_stem(build(), devices.accelerator)

    def decide() -> dict[str, Any]:
        plan = choose_memory(
            devices.of_rank_zero,
            global_batch=devices.global_batch,
            ranks=devices.world,
            ranks_here=devices.ranks_here,
            memory=memory,
            micro_batches=micro_batches,
            step=partial(
                step_memory,
                as_trained,
                channels=channels,
                size=size,
                precision=precision,
                workers=tile_workers(devices.accelerator),
            ),
            pixels=math.prod(size),
            channels=channels,
            batch_size=data.batch_size,
            feeding=Feeding(
                on_host=partial(data.batches_ahead, ranks_here=devices.ranks_here),
                on_device=ON_DEVICE - 1,
                augmenting=partial(
                    data.augment.extra_bytes,
                    image_bytes=channels * math.prod(size),
                    workers=tile_workers(devices.accelerator),
                ),
            ),
        )
        maps_blocks = plan.maps_blocks or bool(earlier and earlier.get("maps_blocks"))
        return plan._replace(maps_blocks=maps_blocks)._asdict()

    return MemoryPlan(**from_rank_zero("memory_plan", decide, num_nodes=devices.num_nodes))


def check_compiled(data: ImageData, memory: str) -> None:
    """Raises ValueError where a step can't be compiled, and says where it is compiled often."""
    if memory in ("low", "stream") or data.dataset.reader.varies:
        other = f"memory={memory}" if memory in ("low", "stream") else "data.resolution=native"
        raise ValueError(
            f"compile=true does not go with {other}: what that recomputes, or sizes that change, can't be compiled; "
            "leave one"
        )
    if data.augment.grows:
        log.info(
            "compile=true compiles anew for each of the sizes through which crops grow, and PyTorch leaves those after the "
            "eighth as they are; data.augment.crop_end=%g keeps one size",
            data.augment.crop,
        )


def alone(devices: Devices, micro_batches: int | str) -> int:
    """The number of micro-batches with which every image is alone in its own.

    Raises:
        ValueError: when there is none.
    """
    share, left = divmod(devices.global_batch, devices.world)
    if left:
        raise ValueError(
            f"data.resolution=native takes images one by one, and {devices.world} ranks can't share a global batch of "
            f"{devices.global_batch} evenly; use another number of trainer.devices"
        )
    if micro_batches not in ("auto", share):
        raise ValueError(
            f"micro_batches={micro_batches}: data.resolution=native takes images one by one, here {share}; leave it out"
        )
    return share


def set_up(
    network: FromPixels, data: ImageData, devices: Devices, plan: MemoryPlan, *, synchronises: bool, compiles: bool
) -> None:
    """Makes process, network and data do as planned."""
    if plan.maps_blocks:
        runtime.map_blocks()
    if synchronises:
        network.synchronise_batch_norm()
    set_memory(network, plan.memory, workers=tile_workers(devices.accelerator))
    if plan.memory == "stream":
        data.augment_by_region()
    make_fast(network, devices.accelerator, compiles=compiles)
