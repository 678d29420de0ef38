"""What a call of the inference benchmark is given, the commands of its sides, and a row for each."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from hct_lightning.benchmarks.baselines import plain_inference
from hct_lightning.benchmarks.harness.interleave import Measured, interleave, paired_ratio
from hct_lightning.benchmarks.harness.side import process
from hct_lightning.benchmarks.inference.side import serving
from hct_lightning.benchmarks.inference.subjects import Model
from hct_lightning.data.reading.geometry import Size
from hct_lightning.training.memory_plan import available_bytes

log = logging.getLogger(__name__)

PIXEL_BYTES = 100  # of memory that a side of HCT takes at most for a pixel, nearly


class Shape(NamedTuple):
    """What a call is given, and where it is answered."""

    device: str
    size: Size
    batch: int

    def plain(self, form: Mapping[str, Any], image: Path | None = None) -> list[str]:
        """The command of a side of plain PyTorch."""
        return process(plain_inference.inference, **self.arguments(image), **form)

    def ours(self, model: Model, image: Path | None = None) -> list[str]:
        """The command of a side of ours."""
        return process(serving, model=model.where, **self.arguments(image))

    def arguments(self, image: Path | None) -> dict[str, Any]:
        height, width = self.size
        return {"height": height, "width": width, "batch_size": self.batch, "device": self.device, "image": image}

    def sides(self, models: Mapping[str, Model], plain: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
        """The commands of all that can be measured at this shape, by name."""
        gpu = self.device != "cpu"  # artifacts and torch.ao's int8 are the CPU's
        sides = {}
        for name, form in plain.items():
            if form["form"] == "static" and max(self.size) <= 128:
                log.warning("%s: torch's own int8 fails at 128 px: left out", name)
            elif form["form"] == "eager" or not gpu:
                sides[name] = self.plain(form)
        for name, model in models.items():
            if gpu and model.kind == "artifact":
                continue
            if model.takes(self.size):
                sides[name] = self.ours(model)
            else:
                log.warning("%s does not take images of %dx%d: left out", name, *self.size)
        return sides


class Turns(NamedTuple):
    """How often each side is called, and how many are there at a time."""

    warmup: int
    rounds: int
    together: int

    def measure(
        self, sides: Mapping[str, Sequence[str]], shape: Shape | None = None
    ) -> tuple[dict[str, Measured], dict[str, float | None]]:
        """In turn; with a shape within the memory there is, one after the other where so many sides do not fit it."""
        together, most = self.together, None
        if shape and shape.device == "cpu":
            most = available_bytes(torch.device("cpu"), 1)
            side_bytes = PIXEL_BYTES * shape.batch * shape.size[0] * shape.size[1]
            if min(together, len(sides)) * side_bytes > most:
                log.info("one side after the other: together they could take more than the memory there is")
                together = 1
        return in_groups(sides, warmup=self.warmup, rounds=self.rounds, together=together, most_bytes=most)


def in_groups(
    sides: Mapping[str, Sequence[str]], *, warmup: int, rounds: int, together: int, most_bytes: int | None = None
) -> tuple[dict[str, Measured], dict[str, float | None]]:
    """Measures in groups of at most `together` processes, the first side in all of them, or each side alone.

    Returns:
        What each side took, and how many times as fast as the first side it is, in the same rounds where there are
        such; None where one of the two did not fit the memory.
    """
    reference, *others = sides
    step = max(1, together - 1)
    groups = [[reference, *others[start : start + step]] for start in range(0, max(1, len(others)), step)]
    results: dict[str, Measured] = {}
    speeds: dict[str, float | None] = {}
    for group in groups if together > 1 else [[name] for name in sides]:
        commands = {name: sides[name] for name in group}
        measured = interleave(commands, warmup=warmup, rounds=rounds, most_bytes=most_bytes)
        for name, side in measured.items():
            results.setdefault(name, side)
            speeds.setdefault(name, _speed(measured.get(reference, results[reference]), side))
    return results, speeds


def _speed(reference: Measured, side: Measured) -> float | None:
    return None if reference.failed or side.failed else paired_ratio(reference, side)


def table(measured: Mapping[str, Measured], speed: Mapping[str, float | None], shape: Shape) -> list[dict[str, Any]]:
    """A row per side; `note` says why there are no times, where there are none."""
    rows = []
    for name, side in measured.items():
        none = [None] * 3
        p50, p90, p99 = none if side.failed else np.percentile(side.seconds, (50, 90, 99)).tolist()
        rows.append(
            {
                "side": name,
                "size": f"{shape.size[0]}x{shape.size[1]}",
                "batch": shape.batch,
                "device": shape.device,
                "precision": side.facts["precision"],
                "p50_s": p50,
                "p90_s": p90,
                "p99_s": p99,
                "images_per_s": shape.batch / p50 if p50 else None,
                "speed": speed[name],
                "first_s": side.facts.get("first_s", side.first_s) or None,
                "load_s": side.facts["load_s"],
                "peak_gib": side.peak_gib or None,
                "mb": side.facts["size_bytes"] / 1e6,
                "threads": side.facts["threads"],
                "note": side.failed,
            }
        )
    return rows
