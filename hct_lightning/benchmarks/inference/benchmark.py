"""Inference from uint8 pixels in memory: artifacts, checkpoints, timm's networks, and plain PyTorch beside them.

Every side is a process of its own, the sides take turns, and each is compared with plain eager fp32 in the same
rounds. With a GPU what runs eagerly runs there, too.
"""

import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from hct_lightning.benchmarks.baselines import plain_inference
from hct_lightning.benchmarks.harness.interleave import Measured, interleave, paired_ratio
from hct_lightning.benchmarks.harness.side import process
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
from hct_lightning.benchmarks.inference.side import loaded, serving
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

    def measure(self, sides: Mapping[str, Sequence[str]]) -> tuple[dict[str, Measured], dict[str, float]]:
        return in_groups(sides, warmup=self.warmup, rounds=self.rounds, together=self.together)


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
    `torchscript_vs_eager` (above 1: ours is faster), `cpp_vs_python` (below 1: C++ is faster),
    `loaded_vs_benchmark` (above 1: a program that only loads the artifact is slower) and `file_to_answer`. The options are explained in conf/benchmark/inference.yaml.

    Raises:
        ValueError: when no model takes the sizes, or an option is out of its range.
    """
    if together < 2:
        raise ValueError(f"benchmark.together={together}: the baseline and a side are two processes")
    turns = Turns(warmup, rounds, together)
    program = build_cpp.build(Path(cpp).resolve()) if cpp else None  # what is missing is said at once
    out = Path(output)
    out.mkdir(parents=True, exist_ok=True)
    ours, sizes = find_models(run, models, artifacts, [as_size(size) for size in resolutions or ()], out)
    served = {name: model for name, model in ours.items() if model.takes(sizes[0])}
    if not served:
        raise ValueError(
            f"none of the models takes images of {sizes[0][0]}x{sizes[0][1]}; "
            "give benchmark.resolutions, or artifacts made for it (export.dynamic=true opens the size)"
        )
    devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    plain = (PLAIN | PLAIN_PAPER if paper else PLAIN) if baselines else {}
    rows, speeds = at_each([Shape(*shape) for shape in product(devices, sizes, batch_sizes)], ours, plain, turns)
    first = next(iter(speeds))
    best = max(served, key=speeds[first].__getitem__)
    ratios = compare_speeds(speeds[first], best)
    one = first._replace(batch=1)  # the C++ program and a file are an image at a time
    if program:
        cpp_rows, cpp_ratio = in_cpp(program, served, best, one, speeds.get(one), turns, out)
        rows, ratios = rows + cpp_rows, ratios | cpp_ratio
    loaded_rows, loaded_ratio = as_loaded(served, best, one, turns)
    rows, ratios = rows + loaded_rows, ratios | loaded_ratio
    more = []
    if baselines:
        table_of_files, ratios["file_to_answer"] = from_file(photo, served[best], best, one, turns, out)
        more.append(table_of_files)
    judged = judge(served, data, accuracy) if accuracy else None
    if judged:
        more.append(judged)
    if paper:
        beside = paper_rows(rows, judged["rows"] if judged else [])
        if any(row["plain_s"] or row["ours_s"] for row in beside):
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


def find_models(
    run: str | None, models: Sequence[str] | None, artifacts: Sequence[str], sizes: list[Size], out: Path
) -> tuple[dict[str, Model], list[Size]]:
    """The models to measure, by short names: those listed, else of the run, else made below `out`; and the sizes.

    Where no sizes are given, the one that the first model is for.
    """
    if models is None:
        home = Path(run) if run else make_run(out / "fresh", (sizes or [FRESH])[0], artifacts)
        models = [str(home / "checkpoints" / "best.ckpt"), *sorted(map(str, (home / "artifacts").glob("*/")))]
    ours = named([find(model) for model in models])
    if not sizes:
        made_for = (model.decoding.size for model in ours.values())
        sizes = [as_size(next(filter(None, made_for), FRESH))]
    return ours, sizes


def at_each(
    shapes: Sequence[Shape], ours: Mapping[str, Model], plain: Mapping[str, Mapping[str, Any]], turns: Turns
) -> tuple[list[dict[str, Any]], dict[Shape, dict[str, float]]]:
    """A row per side and shape, and how many times as fast as its first side each is, by shape."""
    rows, speeds = [], {}
    for shape in shapes:
        log.info("%dx%d, batch %d, %s", *shape.size, shape.batch, shape.device)
        if sides := shape.sides(ours, plain):
            measured, speeds[shape] = turns.measure(sides)
            rows += table(measured, speeds[shape], shape)
    return rows, speeds


def in_cpp(
    program: Path,
    served: Mapping[str, Model],
    best: str,
    one: Shape,
    speeds: Mapping[str, float] | None,
    turns: Turns,
    out: Path,
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """The TorchScript artifact and the best one in C++, where it serves them: rows, and `cpp_vs_python` of the last.

    `speeds` are those of the Python sides at the same shape, where it was measured.
    """
    rows, ratio = [], {}
    image = random_png(one.size, out / "random.png")
    for name in dict.fromkeys(("torchscript", best)):
        if name not in served or served[name].about.get("runtime") not in CPP_RUNTIMES:
            continue
        there = f"C++ {name}"
        command = [str(program), "--wait", served[name].where, str(image)]
        measured, speed = turns.measure({name: one.ours(served[name]), there: command})
        ratio["cpp_vs_python"] = 1 / speed[there]
        measured[there].facts.update({key: served[name].about[key] for key in ("precision", "size_bytes")})
        relative = {there: speeds[name] * speed[there] if speeds else None}
        rows += table({there: measured[there]}, relative, one)
    image.unlink()
    return rows, ratio


def as_loaded(
    served: Mapping[str, Model], best: str, one: Shape, turns: Turns
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Artifacts in a program that does nothing but load them, beside the benchmark's own side of the same: rows, and
    the greater of the ratios, `loaded_vs_benchmark`."""
    rows, ratios = [], []
    for name in dict.fromkeys(("torchscript_int8", best)):
        if name not in served or served[name].kind != "artifact" or one.device != "cpu":
            continue
        there = f"{name}, loaded"
        command = process(loaded, model=served[name].where, **one.arguments(None))
        measured, speed = turns.measure({name: one.ours(served[name]), there: command})
        ratios.append(1 / speed[there])
        rows += table({there: measured[there]}, {there: None}, one)
    return rows, {"loaded_vs_benchmark": max(ratios)} if ratios else {}


def from_file(
    photo: str | None, model: Model, name: str, one: Shape, turns: Turns, out: Path
) -> tuple[dict[str, Any], float]:
    """From a file of twice the size to the answer: a table, and how many times as fast as plain eager a model is."""
    file = enlarged(photo, one.size, out / "enlarged.jpg")
    sides = {side: one.plain(PLAIN[side], file) for side in (EAGER, TUNED_EAGER)}
    measured, speed = turns.measure(sides | {name: one.ours(model, file)})
    file.unlink()
    title = f"From a JPEG of {2 * one.size[1]}x{2 * one.size[0]} pixels to the answer"
    return {"title": title, "rows": table(measured, speed, one)}, speed[name]


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
