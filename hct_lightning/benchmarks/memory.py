"""What a training step keeps and takes: `memory=low` against the plain network, and the prediction.

Kept for the backward pass: the bytes of the distinct storages that a forward pass saves, parameters
aside, images included. plain: contiguous, fp32, pixels made float and normalised. speed, low: the
settings of `task=fit`, but with AdamW, where plain has Adam, and no block dropped; low fp32 the same without autocast.

Predicted: the peak of HCT's step, as `benchmark=memory_grid` measures it for other networks too.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from hct_lightning.benchmarks.baselines import plain_training
from hct_lightning.benchmarks.fit_step import comparable_step, random_batch, work_of
from hct_lightning.benchmarks.harness.interleave import Measured, interleave, paired_ratio
from hct_lightning.benchmarks.harness.kept import kept_mib
from hct_lightning.benchmarks.harness.side import process, serve
from hct_lightning.benchmarks.memory_grid import MIB, Point, in_a_fresh_process, measured_bytes
from hct_lightning.machine.devices import best_device
from hct_lightning.training.memory import Memory


def benchmark(
    *,
    resolution: int,
    settings: Sequence[tuple[int, int, str, Memory]],
    warmup: int,
    rounds: int,
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
    sides = {
        "plain": process(plain_training.keeping, resolution=resolution, batch_size=1),
        "speed": process(keeping, memory="speed", resolution=resolution),
        "low": process(keeping, memory="low", resolution=resolution),
        "low fp32": process(keeping, memory="low", resolution=resolution, precision="32-true"),
    }
    steps = interleave(sides, warmup=warmup, rounds=rounds)
    kept = {side: step.facts["kept_mib"] for side, step in steps.items()}
    peaks = [peak_row(*setting) for setting in settings]
    return {
        "title": "What a training step keeps for its backward pass, and its peak",
        "ratios": {
            "low_vs_plain": kept["low"] / kept["plain"],
            "low_fp32_vs_plain": kept["low fp32"] / kept["plain"],
            "low_step_time": paired_ratio(steps["low"], steps["speed"]),
            "prediction_error": max(abs(row["predicted"] / row["peak_mib"] - 1) for row in peaks),
        },
        "rows": [kept_row(side, resolution, step, kept["plain"]) for side, step in steps.items()] + peaks,
    }


def kept_row(side: str, resolution: int, step: Measured, plain_mib: float) -> dict[str, Any]:
    return {
        "memory": side,
        "px": resolution,
        "batch": 1,
        "precision": step.facts["precision"],
        "kept_mib": step.facts["kept_mib"],
        "vs_plain": step.facts["kept_mib"] / plain_mib,
        "step_s": step.median,
        "peak_mib": "",
        "predicted": "",
    }


def peak_row(px: int, batch: int, precision: str, memory: Memory) -> dict[str, Any]:
    """Measures the peak of a setting, beside its prediction."""
    point, device = Point("hct", px, batch, precision, memory), best_device().type
    return {
        "memory": memory,
        "px": px,
        "batch": batch,
        "precision": precision,
        "kept_mib": "",
        "vs_plain": "",
        "step_s": "",
        "peak_mib": in_a_fresh_process(measured_bytes, point, device) / MIB,
        "predicted": point.predicted_bytes(device) / MIB,
    }


def keeping(memory: Memory, resolution: int, precision: str | None = None) -> None:
    """Tells what a forward pass keeps."""
    step, facts = comparable_step(memory, precision=precision)
    batch = random_batch(1, resolution)
    kept = kept_mib(step.network, partial(step.forward, batch[0].to(best_device())))
    serve(work_of(step, batch), kept_mib=kept, precision=facts["precision"])
