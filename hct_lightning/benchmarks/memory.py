"""What a training step keeps and takes: `memory=low` against the plain network, and the prediction.

Kept for the backward pass: the bytes of the distinct storages that a forward pass saves, parameters
aside, images included. plain: contiguous, fp32, pixels made float and normalised. speed, low: the
settings of `task=fit`; low fp32 the same without autocast.

Predicted: `parallel.memory` against the high-water mark of a process's resident set, above what it
was before the model was built, with glibc's default allocator. Each process first takes two steps at
256 px, so that libraries and threads are there before.
"""

import argparse
import ctypes
import gc
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hct_lightning.benchmarks.harness.interleave import interleave, paired_ratio
from hct_lightning.benchmarks.harness.side import serve

SIDES = ("plain", "speed", "low", "low fp32")


def benchmark(
    *,
    resolution: int = 4000,
    settings: Sequence[tuple[int, int, str, str]] = (),
    warmup: int = 2,
    rounds: int = 5,
) -> dict[str, Any]:
    """Measures and gives ratios and a row per side and per setting.

    The ratios: `low_vs_plain` and `low_fp32_vs_plain` of the bytes kept, `low_step_time` of low to
    speed, `prediction_error`, the largest of the settings.

    Args:
        resolution: of what is kept, and of the step times.
        settings: (resolution, batch size, precision, memory) whose peaks are predicted.
        warmup: steps that don't count.
        rounds: steps that do.
    """
    from hct_lightning.models import HCT, FromPixels
    from hct_lightning.training.memory import step_memory

    command = [sys.executable, "-m", "hct_lightning.benchmarks.memory"]
    steps = interleave(
        {side: [*command, side, str(resolution), "1"] for side in SIDES},
        warmup=warmup,
        rounds=rounds,
    )
    kept = {side: step.facts["kept_mib"] for side, step in steps.items()}
    rows = [
        {
            "memory": side,
            "px": resolution,
            "batch": 1,
            "precision": step.facts["precision"],
            "kept_mib": kept[side],
            "vs_plain": kept[side] / kept["plain"],
            "step_s": step.median,
            "peak_mib": "",
            "predicted": "",
        }
        for side, step in steps.items()
    ]
    errors = []
    for px, batch, precision, memory in settings:
        step = [*command, f"{memory} peak", str(px), str(batch), precision]
        measured = interleave({"peak": step}, warmup=2, rounds=1)["peak"]
        peak = measured.peak_gib * 1024 - measured.facts["before_mib"]
        predicted = step_memory(
            lambda: FromPixels(HCT(), (0.5,) * 3, (0.2,) * 3),
            channels=3,
            size=(px, px),
            batch=batch,
            precision=precision,
            memory=memory,
        )
        errors.append(abs(predicted.resident / 2**20 / peak - 1))
        rows.append(
            {
                "memory": memory,
                "px": px,
                "batch": batch,
                "precision": precision,
                "kept_mib": "",
                "vs_plain": "",
                "step_s": "",
                "peak_mib": peak,
                "predicted": predicted.resident / 2**20,
            }
        )
    return {
        "title": "What a training step keeps for its backward pass, and its peak",
        "ratios": {
            "low_vs_plain": kept["low"] / kept["plain"],
            "low_fp32_vs_plain": kept["low fp32"] / kept["plain"],
            "low_step_time": paired_ratio(steps["low"], steps["speed"]),
            "prediction_error": max(errors),
        },
        "rows": rows,
    }


def kept_bytes(network: Any, forward: Callable[[], Any]) -> int:
    """Of the distinct storages that `forward` saves for the backward pass, parameters aside."""
    import torch

    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = forward()
    del out
    return sum(kept.values())


def plain(resolution: int, batch: int) -> None:
    import torch

    from hct_lightning.benchmarks.baselines.plain_hct import PlainHCT

    network = PlainHCT()
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    images = torch.randint(0, 256, (batch, 3, resolution, resolution), dtype=torch.uint8)

    def forward() -> torch.Tensor:
        return network((images.float() / 255 - mean) / std)

    serve(
        training_step(network, forward, batch),
        kept_mib=kept_bytes(network, forward) / 2**20,
        precision="32-true",
    )


def ours(memory: str, resolution: int, batch: int, precision: str | None) -> None:
    from hydra import compose, initialize_config_module

    from hct_lightning.machine import runtime

    with initialize_config_module("hct_lightning.conf", version_base="1.3"):
        cfg = compose("config")
    runtime.configure(cfg.runtime)
    precision = runtime.resolve_precision(precision or cfg.trainer.precision, "cpu")
    network, forward = our_forward(memory, resolution, batch, precision)
    serve(
        training_step(network, forward, batch),
        kept_mib=kept_bytes(network, forward) / 2**20,
        precision=precision,
    )


def our_peak(memory: str, resolution: int, batch: int, precision: str) -> None:
    """Tells what was resident before the model was built."""
    network, forward = our_forward(memory, 256, batch, precision)
    warm = training_step(network, forward, batch)
    warm()
    warm()
    del network, forward, warm
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = next(
        int(line.split()[1]) / 1024
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmRSS:")
    )
    network, forward = our_forward(memory, resolution, batch, precision)
    serve(training_step(network, forward, batch), before_mib=before)


def our_forward(memory: str, resolution: int, batch: int, precision: str) -> tuple[Any, Callable]:
    import torch

    from hct_lightning.models import HCT, FromPixels
    from hct_lightning.training.memory import AUTOCAST

    network = FromPixels(HCT(), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    network.to(memory_format=torch.channels_last)
    if memory == "low":
        network.set_grad_checkpointing()
    shape = (batch, 3, resolution, resolution)
    images = torch.empty(shape, dtype=torch.uint8, memory_format=torch.channels_last)
    images.random_(256)
    dtype = AUTOCAST.get(precision)

    def forward() -> torch.Tensor:
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            return network(images)

    return network, forward


def training_step(network: Any, forward: Callable[[], Any], batch: int) -> Callable[[], None]:
    import torch

    optimizer = torch.optim.Adam(network.parameters())
    labels = torch.zeros(batch, dtype=torch.long)

    def step() -> None:
        loss = torch.nn.functional.cross_entropy(forward().float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return step


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=(*SIDES, "speed peak", "low peak"))
    parser.add_argument("resolution", type=int)
    parser.add_argument("batch", type=int)
    parser.add_argument("precision", nargs="?")
    given = parser.parse_args()
    memory, _, kind = given.side.partition(" ")
    if memory == "plain":
        plain(given.resolution, given.batch)
    elif kind == "peak":
        our_peak(memory, given.resolution, given.batch, given.precision)
    else:
        precision = "32-true" if kind == "fp32" else None
        ours(memory, given.resolution, given.batch, precision)
