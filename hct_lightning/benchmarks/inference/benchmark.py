"""Inference from uint8 pixels in memory: artifacts, checkpoints, timm's networks, and plain PyTorch beside them.

Every side is a process of its own, the sides take turns, and each is compared with plain eager fp32 in the same
rounds. With a GPU what runs eagerly runs there, too.
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from hct_lightning.benchmarks.harness.interleave import Measured, interleave, paired_ratio
from hct_lightning.benchmarks.inference.accuracy import judge
from hct_lightning.benchmarks.inference.fresh import make_run
from hct_lightning.benchmarks.inference.paper import (
    EAGER,
    INT8,
    PLAIN,
    PLAIN_PAPER,
    TUNED_EAGER,
    TUNED_INT8,
    paper_rows,
)
from hct_lightning.benchmarks.inference.subjects import Model, find
from hct_lightning.data.datamodule import ImageData
from hct_lightning.data.reading.geometry import Size, as_size
from hct_lightning.data.sources import drawing
from hct_lightning.deploy import build_cpp
from hct_lightning.report.inference import draw

log = logging.getLogger(__name__)

FRESH = (4000, 4000)  # pixels, of a fresh HCT
CPP_RUNTIMES = ("torchscript", "aoti", "openvino")
PACKAGES = ("torch", "torchvision", "torchao", "openvino", "nncf", "onnxruntime", "pillow", "timm")


class Shape(NamedTuple):
    """What a call is given, and where it is answered."""

    device: str
    size: Size
    batch: int

    def plain(self, form: Sequence[str]) -> list[str]:
        """The command of a side of plain PyTorch."""
        return self._command("baselines.plain_inference", *form)

    def ours(self, model: Model) -> list[str]:
        """The command of a side of ours."""
        return self._command("inference.side", model.where)

    def _command(self, module: str, *args: str) -> list[str]:
        height, width = self.size
        return [
            sys.executable,
            "-m",
            f"hct_lightning.benchmarks.{module}",
            *args,
            str(height),
            str(width),
            f"--batch-size={self.batch}",
            f"--device={self.device}",
        ]

    def sides(self, models: Mapping[str, Model], plain: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        """The commands of all that can be measured at this shape, by name."""
        gpu = self.device != "cpu"  # artifacts and torch.ao's int8 are the CPU's
        sides = {}
        for name, form in plain.items():
            if form[0] == "static" and max(self.size) <= 128:
                log.warning("%s: torch's own int8 fails at 128 px: left out", name)
            elif form[0] == "eager" or not gpu:
                sides[name] = self.plain(form)
        for name, model in models.items():
            if gpu and model.kind == "artifact":
                continue
            if model.takes(self.size):
                sides[name] = self.ours(model)
            else:
                log.warning("%s does not take images of %dx%d: left out", name, *self.size)
        return sides


def benchmark(
    *,
    run: str | None,
    models: Sequence[str] | None,
    artifacts: Sequence[str],
    resolutions: Sequence[int | Sequence[int]] | None,
    batch_sizes: Sequence[int],
    warmup: int,
    rounds: int,
    together: int,
    baselines: bool,
    paper: bool,
    photo: str | None,
    cpp: str | None,
    accuracy: int | None,
    data: ImageData,
    output: str,
) -> dict[str, Any]:
    """Measures and gives ratios, a row per side and shape, and further tables; draws a figure.

    The ratios are of the CPU at the first shape; those whose sides are not measured are left out:
    `best_vs_eager`, `best_vs_tuned_eager`, `best_vs_torchscript_int8`, `best_vs_tuned_torchscript_int8`,
    `torchscript_vs_eager` (above 1: ours is faster), `cpp_vs_python` (below 1: C++ is faster) and
    `file_to_answer`. The options are explained in conf/benchmark/inference.yaml.

    Raises:
        ValueError: when no model takes the sizes, or an option is out of its range.
    """
    if together < 2:
        raise ValueError(f"benchmark.together={together}: the baseline and a side are two processes")
    program = build_cpp.build(Path(cpp).resolve()) if cpp else None  # what is missing is said at once
    out = Path(output)
    out.mkdir(parents=True, exist_ok=True)
    sizes = [as_size(resolution) for resolution in resolutions or ()]
    if models is None:
        home = Path(run) if run else make_run(out / "fresh", (sizes or [FRESH])[0], artifacts)
        models = [home / "checkpoints" / "best.ckpt", *sorted((home / "artifacts").glob("*/"))]
    ours = named([find(model) for model in models])
    if not sizes:
        made_for = (model.decoding.size for model in ours.values())
        sizes = [as_size(next(filter(None, made_for), FRESH))]
    served = {name: model for name, model in ours.items() if model.takes(sizes[0])}
    if not served:
        raise ValueError(
            f"none of the models takes images of {sizes[0][0]}x{sizes[0][1]}; "
            "give benchmark.resolutions, or artifacts made for it (export.dynamic=true opens the size)"
        )
    plain = (PLAIN | PLAIN_PAPER if paper else PLAIN) if baselines else {}

    def measure(sides: Mapping[str, Sequence[str]]) -> tuple[dict[str, Measured], dict[str, float]]:
        return in_groups(sides, warmup=warmup, rounds=rounds, together=together)

    rows, speeds = [], {}
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for size in sizes:
            for batch in batch_sizes:
                shape = Shape(device, size, batch)
                log.info("%dx%d, batch %d, %s", *size, batch, device)
                if sides := shape.sides(ours, plain):
                    measured, speeds[shape] = measure(sides)
                    rows += table(measured, speeds[shape], shape)
    first = next(iter(speeds))
    best = max(served, key=speeds[first].__getitem__)
    ratios = compare_speeds(speeds[first], best)

    one = first._replace(batch=1)  # the C++ program and a file are an image at a time

    if program:
        image = random_png(one.size, out / "random.png")
        for name in dict.fromkeys(("torchscript", best)):
            if name not in served or served[name].about.get("runtime") not in CPP_RUNTIMES:
                continue
            there = f"C++ {name}"
            command = [str(program), "--wait", served[name].where, str(image)]
            measured, speed = measure({name: one.ours(served[name]), there: command})
            ratios["cpp_vs_python"] = 1 / speed[there]
            about = {key: served[name].about[key] for key in ("precision", "size_bytes")}
            measured[there].facts.update(about)
            relative = {there: speeds[one][name] * speed[there] if one in speeds else None}
            rows += table({there: measured[there]}, relative, one)
        image.unlink()

    more = []
    if baselines:
        file = enlarged(photo, one.size, out / "enlarged.jpg")
        sides = {name: one.plain(PLAIN[name]) for name in (EAGER, TUNED_EAGER)}
        sides[best] = one.ours(served[best])
        measured, speed = measure({n: [*side, f"--image={file}"] for n, side in sides.items()})
        ratios["file_to_answer"] = speed[best]
        title = f"From a JPEG of {2 * one.size[1]}x{2 * one.size[0]} pixels to the answer"
        more.append({"title": title, "rows": table(measured, speed, one)})
        file.unlink()
    judged = judge(served, data, accuracy) if accuracy else None
    if judged:
        more.append(judged)
    if paper:
        beside = paper_rows(rows, judged["rows"] if judged else [])
        more.append({"title": "The paper's figures and ours", "rows": beside})
    draw(rows, out / "inference.png")
    return {
        "title": f"Inference from uint8 pixels in memory, medians of {rounds}",
        "ratios": ratios,
        "rows": rows,
        "more": more,
        "best": best,
        "models": {name: model.where for name, model in ours.items()},
        "versions": {package: version(package) for package in PACKAGES if installed(package)},
    }


def named(models: Sequence[Model]) -> dict[str, Model]:
    """By short names: an artifact's own, `checkpoint`, timm's; numbered where they meet."""
    names = {}
    for model in models:
        name = {"artifact": model.about.get("name"), "checkpoint": "checkpoint"}.get(model.kind, model.where)
        taken = sum(other.split("#")[0] == name for other in names)
        names[f"{name}#{taken + 1}" if taken else name] = model
    return names


def in_groups(
    sides: Mapping[str, Sequence[str]], *, warmup: int, rounds: int, together: int
) -> tuple[dict[str, Measured], dict[str, float]]:
    """Measures in groups of at most `together` processes, the first side in all of them.

    Returns:
        What each side took, and how many times as fast as the first side it is, in the same rounds.
    """
    reference, *others = sides
    results, speeds = {}, {}
    for start in range(0, max(1, len(others)), together - 1):
        group = [reference, *others[start : start + together - 1]]
        measured = interleave({name: sides[name] for name in group}, warmup=warmup, rounds=rounds)
        for name, side in measured.items():
            results.setdefault(name, side)
            speeds.setdefault(name, paired_ratio(measured[reference], side))
    return results, speeds


def compare_speeds(speed: Mapping[str, float], best: str) -> dict[str, float]:
    """The ratios whose sides are there."""
    wanted = {
        "best_vs_eager": (best, EAGER),
        "best_vs_tuned_eager": (best, TUNED_EAGER),
        "best_vs_torchscript_int8": (best, INT8),
        "best_vs_tuned_torchscript_int8": (best, TUNED_INT8),
        "torchscript_vs_eager": ("torchscript", EAGER),
    }
    return {n: speed[a] / speed[b] for n, (a, b) in wanted.items() if a in speed and b in speed}


def table(measured: Mapping[str, Measured], speed: Mapping[str, float | None], shape: Shape) -> list[dict[str, Any]]:
    """A row per side."""
    rows = []
    for name, side in measured.items():
        p50, p90, p99 = np.percentile(side.seconds, (50, 90, 99)).tolist()
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
                "images_per_s": shape.batch / p50,
                "speed": speed[name],
                "first_s": side.facts.get("first_s", side.first_s),
                "load_s": side.facts["load_s"],
                "peak_gib": side.peak_gib,
                "mb": side.facts["size_bytes"] / 1e6,
                "threads": side.facts["threads"],
            }
        )
    return rows


def random_png(size: Size, path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, compress_level=0)
    return path


def enlarged(photo: str | None, size: Size, path: Path) -> Path:
    """A JPEG of twice `size`, of a photograph, or drawn where none is given."""
    height, width = (2 * side for side in size)
    if photo:
        with Image.open(photo) as file:
            image = file.convert("RGB")
    else:
        image = Image.fromarray(drawing.draw(0, 0, max(height, width)))
    image.resize((width, height), Image.Resampling.BICUBIC).save(path, quality=95)
    return path


def installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
