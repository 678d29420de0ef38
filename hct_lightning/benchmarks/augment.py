"""What augmentation takes, kind by kind, beside the training step of `task=fit` on as many images."""

from collections.abc import Mapping
from typing import Any

import torch

from hct_lightning.benchmarks.fit_step import comparable_step, random_batch, work_of
from hct_lightning.benchmarks.harness.interleave import interleave
from hct_lightning.benchmarks.harness.side import process, serve
from hct_lightning.data.feeding.augment.augmentation import Augmentation
from hct_lightning.data.feeding.loader import Batch
from hct_lightning.machine.devices import synchronise

STEP = "training step"


def benchmark(
    *,
    resolution: int,
    channels: int,
    batch_size: int,
    kinds: Mapping[str, Mapping[str, float]],
    warmup: int,
    rounds: int,
) -> dict[str, Any]:
    """Measures and gives the share of a step that each kind takes, and a row per side.

    Args:
        resolution: of the images.
        channels: of the images, 1 or 3.
        batch_size: images of a step.
        kinds: options of `Augmentation`, by a name.
        warmup: calls of each that don't count.
        rounds: calls of each that do.
    """
    shape = {"resolution": resolution, "channels": channels, "batch_size": batch_size}
    sides = {STEP: process(training, **shape)}
    sides |= {name: process(augmenting, **shape, options=dict(options)) for name, options in kinds.items()}
    measured = interleave(sides, warmup=warmup, rounds=rounds)
    step = measured[STEP].median
    return {
        "title": f"Augmentation of {batch_size} images of {resolution} px",
        "ratios": {name: measured[name].median / step for name in kinds},
        "rows": [
            {
                "side": name,
                "ms_an_image": 1000 * side.median / batch_size,
                "percent_of_a_step": 100 * side.median / step,
                **side.facts,
            }
            for name, side in measured.items()
        ],
    }


def training(resolution: int, channels: int, batch_size: int) -> None:
    step, facts = comparable_step(channels=channels)
    serve(work_of(step, random_batch(batch_size, resolution, channels)), **facts)


def augmenting(resolution: int, channels: int, batch_size: int, options: dict[str, Any]) -> None:
    step, facts = comparable_step(channels=channels)  # for its settings and its device
    device = next(step.network.parameters()).device
    images, labels = (part.to(device) for part in random_batch(batch_size, resolution, channels))
    augmentation, epochs = Augmentation(**options), iter(range(2**31))

    def work() -> None:
        augmentation(Batch(images, labels, torch.arange(batch_size)), seed=0, epoch=next(epochs), classes=4)
        synchronise(device)

    serve(work, **facts)
