"""Inference from uint8 pixels in memory: artifacts, checkpoints, timm's networks, and plain PyTorch beside them.

Every side is a process of its own, the sides take turns, and each is compared with plain eager fp32 in the same
rounds. With a GPU what runs eagerly runs there, too.
"""

import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import Any

import torch

from hct_lightning.benchmarks.inference.accuracy import judge, judged_against
from hct_lightning.benchmarks.inference.fresh import make_run
from hct_lightning.benchmarks.inference.one_image import CHANNELS, as_loaded, from_file, in_cpp
from hct_lightning.benchmarks.inference.paper import (
    ARTIFACTS,
    EAGER,
    INT8,
    PLAIN,
    PLAIN_PAPER,
    TUNED_EAGER,
    TUNED_INT8,
    paper_rows,
)
from hct_lightning.benchmarks.inference.profile import profiled
from hct_lightning.benchmarks.inference.shapes import Shape, Turns, table
from hct_lightning.benchmarks.inference.subjects import Model, find
from hct_lightning.data.datamodule import ImageData
from hct_lightning.data.reading.geometry import Size, as_size
from hct_lightning.deploy import build_cpp
from hct_lightning.report.inference import draw

log = logging.getLogger(__name__)

FRESH = (4000, 4000)  # pixels, of a fresh HCT
PACKAGES = ("torch", "torchvision", "torchao", "openvino", "nncf", "onnxruntime", "pillow", "timm")


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
    profile: bool,
    data: ImageData,
    output: str,
) -> dict[str, Any]:
    """Measures and gives ratios, a row per side and shape, and further tables; draws a figure.

    The ratios are of the CPU at the first shape; those whose sides are not measured are left out:
    `best_vs_eager`, `best_vs_tuned_eager`, `best_vs_torchscript_int8`, `best_vs_tuned_torchscript_int8`,
    `torchscript_vs_eager` (above 1: ours is faster), `cpp_vs_python` (below 1: C++ is faster),
    `loaded_vs_benchmark` (above 1: a program that only loads the artifact is slower), `file_to_answer`, those of a folder
    (see `from_file`), and with `profile` `best_vs_limit` (the best one's time, in times of its arithmetic at the
    machine's peak). The options are explained in conf/benchmark/inference.yaml.

    Raises:
        ValueError: when no model takes the sizes, or an option is out of its range.
    """
    if together < 2:
        raise ValueError(f"benchmark.together={together}: the baseline and a side are two processes")
    turns = Turns(warmup, rounds, together)
    program = build_cpp.build(Path(cpp).resolve()) if cpp else None  # what is missing is said at once
    out = Path(output)
    out.mkdir(parents=True, exist_ok=True)
    made = list(dict.fromkeys((*artifacts, *(ARTIFACTS if paper else ()))))
    ours, sizes = find_models(run, models, made, [as_size(size) for size in resolutions or ()], out)
    served = {name: model for name, model in ours.items() if model.takes(sizes[0])}
    check_before(served, sizes[0], photo, data if accuracy else None)
    devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    plain = (PLAIN | PLAIN_PAPER if paper else PLAIN) if baselines else {}
    rows, speeds = at_each([Shape(*shape) for shape in product(devices, sizes, batch_sizes)], ours, plain, turns)
    first = next(iter(speeds))
    best = max(served, key=lambda name: speeds[first][name] or 0)
    ratios = compare_speeds(speeds[first], best)
    one = first._replace(batch=1)  # the C++ program and a file are an image at a time
    if program:
        cpp_rows, cpp_ratio = in_cpp(program, served, best, one, speeds.get(one), turns, out)
        rows, ratios = rows + cpp_rows, ratios | cpp_ratio
    loaded_rows, loaded_ratio = as_loaded(served, best, one, turns)
    rows, ratios = rows + loaded_rows, ratios | loaded_ratio
    more = []
    if baselines and served[best].decoding.channels in CHANNELS:
        tables, of_files = from_file(photo, served[best], best, one, turns, out)
        more, ratios = more + tables, ratios | of_files
    if profile:
        tables, limit = profiled(ours, served, rows, sizes[0], program, out)
        more, ratios = more + tables, ratios | limit
    judged = [judge(served, data, accuracy)] if accuracy else []
    more += judged
    if paper:
        beside = paper_rows(rows, judged[0]["rows"] if judged else [])
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


def check_before(served: Mapping[str, Model], size: Size, photo: str | None, judging: ImageData | None) -> None:
    """Raises ValueError, before ten minutes of measuring, for what can't be served, read from a file or judged."""
    if not served:
        raise ValueError(
            f"none of the models takes images of {size[0]}x{size[1]}; "
            "give benchmark.resolutions, or artifacts made for it (export.dynamic=true opens the size)"
        )
    if photo and not Path(photo).is_file():
        raise ValueError(f"benchmark.photo={photo} is no file; give a photograph, or null for a drawn one")
    if judging:
        judged_against(served, judging)


def find_models(
    run: str | None, models: Sequence[str] | None, artifacts: Sequence[str], sizes: list[Size], out: Path
) -> tuple[dict[str, Model], list[Size]]:
    """The models to measure, by short names: those listed, else of the run, else made below `out`; and the sizes.

    Where no sizes are given, the one that the first model is for.
    """
    if models is None:
        home = Path(run) if run else make_run(out / "fresh", (sizes or [FRESH])[0], artifacts)
        models = [str(home / "checkpoints" / "best.ckpt"), *sorted(map(str, (home / "artifacts").glob("[!.]*/")))]
    ours = named([find(model) for model in models])
    if not sizes:
        made_for = (model.decoding.size for model in ours.values())
        sizes = [as_size(next(filter(None, made_for), FRESH))]
    return ours, sizes


def at_each(
    shapes: Sequence[Shape], ours: Mapping[str, Model], plain: Mapping[str, Mapping[str, Any]], turns: Turns
) -> tuple[list[dict[str, Any]], dict[Shape, dict[str, float | None]]]:
    """A row per side and shape, and how many times as fast as its first side each is, by shape."""
    rows, speeds = [], {}
    for shape in shapes:
        log.info("%dx%d, batch %d, %s", *shape.size, shape.batch, shape.device)
        if sides := shape.sides(ours, plain):
            measured, speeds[shape] = turns.measure(sides, shape)
            rows += table(measured, speeds[shape], shape)
    return rows, speeds


def named(models: Sequence[Model]) -> dict[str, Model]:
    """By short names: an artifact's own, `checkpoint`, timm's; numbered where they meet."""
    names = {}
    for model in models:
        name = {"artifact": model.about.get("name"), "checkpoint": "checkpoint"}.get(model.kind, model.where)
        taken = sum(other.split("#")[0] == name for other in names)
        names[f"{name}#{taken + 1}" if taken else name] = model
    return names


def compare_speeds(speed: Mapping[str, float | None], best: str) -> dict[str, float]:
    """The ratios whose sides are there."""
    wanted = {
        "best_vs_eager": (best, EAGER),
        "best_vs_tuned_eager": (best, TUNED_EAGER),
        "best_vs_torchscript_int8": (best, INT8),
        "best_vs_tuned_torchscript_int8": (best, TUNED_INT8),
        "torchscript_vs_eager": ("torchscript", EAGER),
    }
    known = {name: value for name, value in speed.items() if value}
    return {n: known[a] / known[b] for n, (a, b) in wanted.items() if a in known and b in known}


def installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
