"""One image at a time: in C++, in a program of three lines, from a file, from a folder of files."""

import logging
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hct_lightning.benchmarks.harness.interleave import interleave, paired_ratio
from hct_lightning.benchmarks.harness.side import process
from hct_lightning.benchmarks.inference.loaded import loaded
from hct_lightning.benchmarks.inference.paper import EAGER, PLAIN, TUNED_EAGER
from hct_lightning.benchmarks.inference.shapes import Shape, Turns, table
from hct_lightning.benchmarks.inference.side import TOGETHER, predicting
from hct_lightning.benchmarks.inference.subjects import Model
from hct_lightning.data.reading.geometry import Size
from hct_lightning.data.sources import drawing
from hct_lightning.deploy.artifact import PROGRAMS
from hct_lightning.deploy.trust import is_own

log = logging.getLogger(__name__)

FILES = 8  # of a folder that is predicted
PARTS = ("read", "compute", "predict", f"compute{TOGETHER}", f"predict{TOGETHER}")
CHANNELS = (1, 3)  # of the files that are written here
_CPP_RUNTIMES = ("torchscript", "aoti", "openvino")


def is_served_in_cpp(model: Model) -> bool:
    """Whether the C++ program serves it, and that without being told to trust it."""
    about = model.about
    if about.get("runtime") not in _CPP_RUNTIMES or model.decoding.channels not in CHANNELS:
        return False
    if about["runtime"] in PROGRAMS and not is_own(about["sha256"][about["file"]]):
        log.warning("%s was not exported here, so the C++ program would have to trust it: left out there", model.where)
        return False
    return True


def in_cpp(
    program: Path,
    served: Mapping[str, Model],
    best: str,
    one: Shape,
    speeds: Mapping[str, float | None] | None,
    turns: Turns,
    out: Path,
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """The TorchScript artifact and the best one in C++, where it serves them: rows, and `cpp_vs_python` of the last.

    `speeds` are those of the Python sides at the same shape, where it was measured.
    """
    rows, ratio = [], {}
    image = random_png(one.size, out / "random.png")
    for name in dict.fromkeys(("torchscript", best)):
        if name not in served or not is_served_in_cpp(served[name]):
            continue
        there = f"C++ {name}"
        command = [str(program), "--wait", served[name].where, str(image)]
        measured, _ = turns.measure({name: one.ours(served[name]), there: command})
        ratio["cpp_vs_python"] = paired_ratio(measured[there], measured[name])
        measured[there].facts.update({key: served[name].about[key] for key in ("precision", "size_bytes")})
        in_python = speeds.get(name) if speeds else None
        relative = {there: in_python / ratio["cpp_vs_python"] if in_python else None}
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
        measured, _ = turns.measure({name: one.ours(served[name]), there: command})
        ratios.append(paired_ratio(measured[there], measured[name]))
        rows += table({there: measured[there]}, {there: None}, one)
    return rows, {"loaded_vs_benchmark": max(ratios)} if ratios else {}


def from_file(
    photo: str | None, model: Model, name: str, one: Shape, turns: Turns, out: Path
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """From a file of twice the size to the answer: tables, and how many times as fast as plain eager a model is.

    With an artifact also from a folder of them: `predict_vs_parts`, against the longer of reading alone and computing
    alone, and `folder_at_a_time`, one image after the other against that.
    """
    file = enlarged(photo, one.size, out / "enlarged.jpg")
    sides = {side: one.plain(PLAIN[side], file) for side in (EAGER, TUNED_EAGER)}
    measured, speed = turns.measure(sides | {name: one.ours(model, file)})
    title = f"From a JPEG of {2 * one.size[1]}x{2 * one.size[0]} pixels to the answer"
    tables = [{"title": title, "rows": table(measured, speed, one)}]
    ratios = {"file_to_answer": paired_ratio(measured[EAGER], measured[name])}
    if model.kind == "artifact" and one.device == "cpu":
        height, width = one.size
        about = {"model": model.where, "height": height, "width": width, "image": file, "count": FILES}
        parts = {part: process(predicting, part=part, **about) for part in PARTS}
        measured = interleave(parts, warmup=1, rounds=turns.rounds)
        read, run, whole = (measured[part].seconds for part in ("read", f"compute{TOGETHER}", f"predict{TOGETHER}"))
        ratios["predict_vs_parts"] = statistics.median(c / max(a, b) for a, b, c in zip(read, run, whole, strict=True))
        ratios["folder_at_a_time"] = paired_ratio(measured["predict"], measured[f"predict{TOGETHER}"])
        rows = [{"part": p, "p50_s": m.median / FILES, "peak_gib": m.peak_gib} for p, m in measured.items()]
        tables.append({"title": f"A folder of {FILES} of them by {name}, seconds an image", "rows": rows})
    file.unlink()
    return tables, ratios


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
