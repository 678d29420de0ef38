"""One training step at 4000 px from uint8 pixels in memory: ours, the plain one, the best tuned plain one.

plain: contiguous, fp32, pixels made float and normalised, torch's default allocator. tuned: the same
network in channels_last under bf16 autocast. ours: the module, loss and settings that `task=fit` uses.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from hct_lightning.benchmarks.harness.interleave import interleave, paired_ratio
from hct_lightning.benchmarks.harness.side import serve

if TYPE_CHECKING:
    from hct_lightning.data.feeding.loader import Batch

SIDES = ("plain", "tuned", "ours")


def benchmark(*, resolution: int = 4000, batch_size: int = 1, warmup: int = 3, rounds: int = 7) -> dict[str, Any]:
    """Measures and gives ratios (`train_step_speedup`, `vs_tuned`) and a row per side."""
    options = [f"--resolution={resolution}", f"--batch-size={batch_size}"]
    command = [sys.executable, "-m", "hct_lightning.benchmarks.step", *options]
    measured = interleave({s: [*command, s] for s in SIDES}, warmup=warmup, rounds=rounds)
    ours = measured["ours"]
    return {
        "title": f"One training step at {resolution} px, batch {batch_size}",
        "ratios": {
            "train_step_speedup": paired_ratio(measured["plain"], ours),
            "vs_tuned": paired_ratio(measured["tuned"], ours),
            "peak_memory_ratio": measured["plain"].peak_gib / ours.peak_gib,
        },
        "rows": [
            {
                "side": name,
                "median_s": side.median,
                "fastest_s": min(side.seconds),
                "slowest_s": max(side.seconds),
                "peak_memory_gib": side.peak_gib,
                **side.facts,
            }
            for name, side in measured.items()
        ],
    }


def plain(resolution: int, batch_size: int, *, tuned: bool) -> None:
    import torch

    from hct_lightning.benchmarks.baselines.plain_hct import PlainHCT

    torch.manual_seed(0)
    model = PlainHCT()
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    images = torch.randint(0, 256, (batch_size, 3, resolution, resolution), dtype=torch.uint8)
    labels = torch.zeros(batch_size, dtype=torch.long)
    if tuned:
        model.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step() -> None:
        x = (images.float() / 255 - mean) / std
        with torch.autocast("cpu", torch.bfloat16, enabled=tuned):
            loss = torch.nn.functional.cross_entropy(model(x).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    precision = "bf16 autocast, channels_last" if tuned else "fp32, contiguous"
    serve(step, precision=precision, threads=torch.get_num_threads())


def training_step(classes: Sequence[str]) -> tuple[Callable[[Batch], None], dict[str, Any]]:
    """A step as `task=fit` takes it on the CPU, its settings applied, and facts about it."""
    from functools import partial

    import lightning
    import torch
    from hydra import compose, initialize_config_module
    from hydra.utils import instantiate

    from hct_lightning.machine import runtime
    from hct_lightning.training.module import ImageClassifier
    from hct_lightning.training.schedules import constant
    from hct_lightning.training.spec import build_network

    with initialize_config_module("hct_lightning.conf", version_base="1.3"):
        cfg = compose("config")
    runtime.configure(cfg.runtime)
    torch.manual_seed(0)
    imagenet = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    network = build_network(cfg.model, channels=3, classes=len(classes), **imagenet)
    module = ImageClassifier(
        network,
        classes=classes,
        optimizer=instantiate(cfg.optim.optimizer),
        schedule=partial(constant),
        lr=cfg.optim.lr,
    )
    module.log = lambda *args, **kwargs: None  # no trainer is attached
    precision = runtime.resolve_precision(cfg.trainer.precision, "cpu")
    fabric = lightning.Fabric(accelerator="cpu", precision=precision)
    optimizer = module.optimizer(module.parameters(), lr=module.lr)

    def step(batch: Batch) -> None:
        with fabric.autocast():
            loss = module.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return step, {"precision": precision, "threads": torch.get_num_threads()}


def ours(resolution: int, batch_size: int) -> None:
    import torch

    from hct_lightning.data.feeding.loader import Batch

    step, facts = training_step(("a", "b", "c", "d"))
    shape = (batch_size, 3, resolution, resolution)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(batch_size, dtype=torch.long)
    batch = Batch(images, labels, torch.arange(batch_size))
    serve(lambda: step(batch), **facts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("--resolution", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    given = parser.parse_args()
    if given.side == "ours":
        ours(given.resolution, given.batch_size)
    else:
        plain(given.resolution, given.batch_size, tuned=given.side == "tuned")
