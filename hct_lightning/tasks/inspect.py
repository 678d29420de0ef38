"""Looks at data before anything is trained on it, and says how to begin."""

import json
import logging
import math
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from PIL import Image, ImageDraw
from rich.table import Table

from hct_lightning.cli.plain import plain
from hct_lightning.cli.recompose import key_of
from hct_lightning.data.datamodule import ImageData
from hct_lightning.data.dataset import Dataset
from hct_lightning.data.reading.channels import as_rgb
from hct_lightning.data.reading.geometry import resize
from hct_lightning.data.reading.image import UnreadableImageError
from hct_lightning.data.survey import Survey, survey
from hct_lightning.machine.runtime import cpu_count, resolve_precision
from hct_lightning.models.hct import SMALLEST
from hct_lightning.report.tables import describe
from hct_lightning.runs.console import results, track
from hct_lightning.runs.files import write_whole
from hct_lightning.training.fast_stem import with_fast_stem
from hct_lightning.training.spec import build_network
from hct_lightning.training.step import step_seconds

log = logging.getLogger(__name__)

# Options that say nothing of the training to begin with.
NOT_OF_TRAINING = ("task", "run", "ckpt", "inspect.samples", "inspect.thumbnail")


def main(cfg: DictConfig, folder: Path) -> None:
    """`task=inspect data=<set>`: `inspect/contact_sheet.png` and `inspect.json`, tables, and a command."""
    dataset = opened(cfg)
    describe(dataset.summary())
    if dataset.fitting_window and "data.window" not in map(key_of, HydraConfig.get().overrides.task):
        dataset = opened(cfg, window=dataset.fitting_window)  # mean and deviation are to be those with it
        log.info("looking with data.window=%s", window_as_given(dataset))
    found = survey(
        dataset.catalogue,
        dataset.reader,
        max_pixels=dataset.decoding.max_pixels,
        workers=cpu_count(),
        progress=partial(track, "looking", workers=cpu_count()),
    )
    out = folder / "inspect"
    out.mkdir(parents=True, exist_ok=True)
    contact_sheet(dataset, cfg.inspect.samples, cfg.inspect.thumbnail).save(out / "contact_sheet.png")
    beginning = suggest(cfg, dataset, found)
    result = {"data": dataset.summary(), **found._asdict(), **beginning}
    write_whole(out / "inspect.json", json.dumps(result, indent=1) + "\n")
    show(found, beginning)
    log.info("-> %s", out)
    print(beginning["command"])


def opened(cfg: DictConfig, **options: Any) -> Dataset:
    data: ImageData = instantiate(cfg.data, **options, on_error="skip", _convert_="all")
    return data.dataset


def window_as_given(data: Dataset) -> str:
    return json.dumps(data.decoding.window, separators=(",", ":"))


def contact_sheet(data: Dataset, samples: int, side: int) -> Image.Image:
    """Training images, evenly spaced over the classes, as the network sees them, with their class."""
    paths, labels = data.catalogue.train.paths, data.catalogue.train.labels
    if side < 8:
        raise ValueError(f"inspect.thumbnail={side}: give pixels a side, at least 8")
    count = min(max(1, samples), len(paths))
    chosen = [round(i * (len(paths) - 1) / max(1, count - 1)) for i in range(count)]
    columns = math.ceil(math.sqrt(count * 1.5))
    rows = math.ceil(count / columns)
    line = 14  # pixels of text
    sheet = Image.new("RGB", (columns * (side + 4), rows * (side + line + 4)), "white")
    draw = ImageDraw.Draw(sheet)
    for n, i in enumerate(chosen):
        left, top = n % columns * (side + 4), n // columns * (side + line + 4)
        draw.text((left, top), data.classes[labels[i]], "black")
        try:
            image = data.reader(paths[i])
            scale = side / max(image.shape[-2:])
            height, width = (max(1, round(length * scale)) for length in image.shape[-2:])
            small = as_rgb(resize(image, (height, width)))
        except UnreadableImageError:
            draw.text((left, top + line), "can't be read", "red")
            continue
        sheet.paste(Image.fromarray(small.permute(1, 2, 0).numpy()), (left, top + line))
    return sheet


def suggest(cfg: DictConfig, data: Dataset, found: Survey) -> dict[str, Any]:
    """A command to begin with, the size of a raw store, and hours of training on this CPU.

    What was given is kept. Otherwise the resolution keeps the detail of half the images: the median of the shorter
    sides. The window is that with which the images were looked at. A store has its own, with the geometry and the channels.
    """
    overrides = [override for override in HydraConfig.get().overrides.task if key_of(override) not in NOT_OF_TRAINING]
    given = {key_of(override) for override in overrides}
    prepared = data.catalogue.prepared is not None
    shorter = sorted(min(size) for size in found.sizes)
    median = max(SMALLEST, shorter[len(shorter) // 2] // 32 * 32)
    height, width = data.size if prepared or "data.resolution" in given else (median, median)
    if data.reader.varies:
        height = width = round(math.sqrt(sum(h * w for h, w in found.sizes) / len(found.sizes)))
    fitting: dict[str, Any] = {"batch_size": max(1, min(8, len(data.catalogue.train) // 4))}
    if not prepared:
        fitting |= {"resolution": median, "geometry": data.decoding.geometry, "channels": data.decoding.channels}
        if data.decoding.window:
            fitting["window"] = window_as_given(data)
    if "data.statistics" not in given:
        fitting |= {name: f"[{','.join(f'{x:.4f}' for x in getattr(found, name))}]" for name in ("mean", "std")}
    if found.unreadable:
        fitting["on_error"] = "skip"
    source = [] if "data" in given else [f"data={HydraConfig.get().runtime.choices['data']}"]
    mine = [f"data.{name}={value}" for name, value in fitting.items() if f"data.{name}" not in given]
    verb = [] if len(data.classes) > 1 else ["task=pretrain"]
    command = f"python -m hct_lightning {shlex.join([*verb, *source, *overrides, *mine])}"
    images = sum(map(len, data.catalogue.splits.values())) - len(found.unreadable)
    return {
        "command": command,
        "store_gb": images * height * width * data.decoding.channels / 1e9,
        "hours_on_this_cpu": hours_on_this_cpu(cfg, data, height, width),
    }


def hours_on_this_cpu(cfg: DictConfig, data: Dataset, height: int, width: int) -> float | None:
    """Of training as configured, from real steps; None where there is a GPU, or the number of epochs is open."""
    epochs = cfg.trainer.max_epochs or 0
    if torch.cuda.is_available() or epochs < 1:
        return None
    side = min(max(height, width), 1024)
    channels = data.decoding.channels
    network = build_network(
        plain(cfg.model), channels=channels, classes=len(data.classes), mean=data.mean, std=data.std
    )
    with_fast_stem(network, "cpu")
    precision = resolve_precision(cfg.trainer.precision, "cpu")
    step_s = step_seconds(network, channels=channels, side=side, device=torch.device("cpu"), precision=precision)
    steps = len(data.catalogue.train) * epochs / 2  # of two images
    return step_s * steps * height * width / side**2 / 3600


def show(found: Survey, beginning: dict[str, Any]) -> None:
    table = Table("", "", title="Images", title_justify="left", show_header=False)
    heights, widths = zip(*found.sizes, strict=True)
    table.add_row("height", f"{min(heights)} to {max(heights)}")
    table.add_row("width", f"{min(widths)} to {max(widths)}")
    channels = ", ".join(f"{n} x {count}" for n, count in sorted(found.channels.items()))
    table.add_row("channels x files", channels)
    table.add_row("mean", ", ".join(f"{value:.4f}" for value in found.mean))
    table.add_row("deviation", ", ".join(f"{value:.4f}" for value in found.std))
    table.add_row("unreadable", str(len(found.unreadable)))
    table.add_row("the same in several splits", str(len(found.duplicates)))
    table.add_row("repeated within a split", str(found.repeated))
    table.add_row("raw store", f"{beginning['store_gb']:.2f} GB")
    if beginning["hours_on_this_cpu"] is not None:
        table.add_row("training on this CPU", f"{beginning['hours_on_this_cpu']:.2f} h")
    results().print(table)
    if found.shortcuts:
        title = "Accuracy on the validation images of who sees no detail"
        cheats = Table(*found.shortcuts[0], title=title, title_justify="left")
        for row in found.shortcuts:
            cheats.add_row(*(f"{value:.3f}" if isinstance(value, float) else value for value in row.values()))
        results().print(cheats)
    for reason in list(found.unreadable.values())[:10]:
        log.warning("%s", reason)
    for paths in found.duplicates[:10]:
        log.warning("the same image trains and validates: %s", ", ".join(paths))
