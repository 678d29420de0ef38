"""One training step at 4000 px from uint8 pixels in memory: ours, the plain one, the best tuned plain one.

plain: contiguous, fp32, pixels made float and normalised, torch's default allocator. tuned: the same
network in channels_last under bf16 autocast. ours: the network and settings that `task=fit` uses,
but with AdamW, where the others have Adam, and no block dropped.
All on a GPU where there is one, from pinned memory, in fp16 where the card does not compute in bf16.
"""

from functools import partial
from typing import Any

from hct_lightning.benchmarks.baselines import plain_training
from hct_lightning.benchmarks.fit_step import comparable_step, random_batch, work_of
from hct_lightning.benchmarks.harness.interleave import interleave, paired_ratio
from hct_lightning.benchmarks.harness.side import process, serve
from hct_lightning.machine.devices import best_device, peak_memory_gib


def benchmark(*, resolution: int, batch_size: int, warmup: int, rounds: int) -> dict[str, Any]:
    """Measures and gives ratios (`train_step_speedup`, `vs_tuned`, `peak_memory_ratio`) and a row per side."""
    shape = {"resolution": resolution, "batch_size": batch_size}
    sides = {
        "plain": process(plain_training.training, **shape, tuned=False),
        "tuned": process(plain_training.training, **shape, tuned=True),
        "ours": process(ours, **shape),
    }
    measured = interleave(sides, warmup=warmup, rounds=rounds)
    fastest = measured["ours"]
    return {
        "title": f"One training step at {resolution} px, batch {batch_size}",
        "ratios": {
            "train_step_speedup": paired_ratio(measured["plain"], fastest),
            "vs_tuned": paired_ratio(measured["tuned"], fastest),
            "peak_memory_ratio": measured["plain"].peak_gib / fastest.peak_gib,
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


def ours(resolution: int, batch_size: int) -> None:
    step, facts = comparable_step()
    work = work_of(step, random_batch(batch_size, resolution))
    serve(work, peak=partial(peak_memory_gib, best_device()), **facts)
