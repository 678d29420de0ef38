"""Where the network looks: maps over images, and the receptive field."""

import itertools
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from rich.table import Table
from torch import Tensor

from hct_lightning.cli.plain import plain
from hct_lightning.cli.recompose import given_options
from hct_lightning.data.inputs import find_images, skips_unreadable
from hct_lightning.data.reading.channels import as_rgb
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.image import UnreadableImageError, read_image, read_seen
from hct_lightning.explain.attention import attention_map, has_attention
from hct_lightning.explain.gradient import check_layer, default_layer, gradient_map
from hct_lightning.explain.maps import Map, rank_correlation
from hct_lightning.explain.occlusion import occlusion_map
from hct_lightning.explain.overlay import check_look, save_overlay
from hct_lightning.explain.receptive_field import draw, half_side, receptive_field
from hct_lightning.machine.devices import choose_devices, peak_memory_gib
from hct_lightning.models import FromPixels
from hct_lightning.runs.console import results, track
from hct_lightning.runs.files import open_whole, write_whole
from hct_lightning.runs.folder import Run
from hct_lightning.training.checkpoints import load_network
from hct_lightning.training.spec import NetworkSpec

log = logging.getLogger(__name__)

METHODS = ("gradient", "attention", "occlusion")
Method = Callable[[FromPixels, Tensor, int], Map]


class Subject(NamedTuple):
    """A trained network, and how it reads images."""

    network: FromPixels
    spec: NetworkSpec
    decoding: Decoding
    device: torch.device

    @classmethod
    def of(cls, cfg: DictConfig, checkpoint: Path) -> "Subject":
        network, spec = load_network(checkpoint, cfg.safety.allow)
        decoding = spec.reading(given_options(cfg, "data", *spec.unsaid), plain(cfg.explain)["resolution"])
        device = choose_devices(cfg.trainer.accelerator, 1, 1, 1).of_rank_zero
        return cls(network.requires_grad_(False).to(device), spec, decoding, device)

    def untrained(self, seed: int) -> FromPixels:
        """The same network with random weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.spec.build().eval().requires_grad_(False).to(self.device)

    def read(self, path: str) -> Tensor:
        """1 c h w uint8, on the device."""
        return read_image(path, self.decoding)[None].to(self.device)

    @property
    def title(self) -> str:
        """The network, and how many stages of HCT are convolutions where that was chosen."""
        model = self.spec.model
        name = model.get("model_name", model["_target_"].rpartition(".")[2])
        return f"{name}, conv_stages={model['conv_stages']}" if "conv_stages" in model else name


def main(cfg: DictConfig, folder: Path) -> None:
    """`task=explain run=<folder> explain.input=<images>`: overlays and `explain.json` in `<run>/explain/`."""
    if OmegaConf.is_missing(cfg.explain, "input"):
        raise ValueError("explain.input is not set; give explain.input=<image, folder, glob or list>")
    options = plain(cfg.explain)
    check_look(options["colours"], options["alpha"])
    images = find_images(options["input"], "explain.input")
    skips = skips_unreadable(cfg.data.on_error, images, "explain.input")
    subject = Subject.of(cfg, Run(folder).checkpoint(cfg.ckpt or "best"))
    if options["target"] not in (None, *subject.spec.classes):
        raise ValueError(f"explain.target={options['target']}: the classes are {', '.join(subject.spec.classes)}")
    methods = choose_methods(options, subject)
    fields = [subject] if options["receptive_field"] else []
    if fields and options["against"]:
        fields.append(Subject.of(cfg, Run(Path(options["against"]).expanduser()).checkpoint("best")))

    out = Path(options["output"] or folder / "explain").expanduser()
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    record: dict[str, Any] = {"methods": list(methods), "images": rows}
    try:
        if methods:
            fresh = subject.untrained(cfg.seed) if options["sanity"] else None
            for path, place in zip(images, places(out, images), strict=True):
                log.info("%s (%d of %d)", path, len(rows) + 1, len(images))
                try:
                    rows.append({"path": path} | explain(path, subject, fresh, methods, place, options))
                except UnreadableImageError as error:
                    if not skips:
                        raise
                    log.warning("%s", error)
                    rows.append({"path": path, "error": str(error)})
        if fields:
            record["receptive_field"] = receptive_fields(fields, images, out, cfg.seed, skips=skips)
    finally:
        record["peak_memory_gib"] = peak_memory_gib(subject.device)
        write_whole(out / "explain.json", json.dumps(record, indent=2) + "\n")
    show(record, out)


def choose_methods(options: dict[str, Any], subject: Subject) -> dict[str, Method]:
    """By name, with their options.

    Raises:
        ValueError: for an unknown one, or when nothing is left to do.
    """
    network = subject.network
    asked = [options["method"]] if isinstance(options["method"], str) else options["method"]
    if unknown := [name for name in asked if name not in METHODS]:
        raise ValueError(f"explain.method={','.join(unknown)}: choose of {', '.join(METHODS)}")
    if "attention" in asked and not has_attention(network):
        asked = [name for name in asked if name != "attention"]
        log.info("%s has no linear attention: the method `attention` is left out", subject.title)
    if not asked and not options["receptive_field"]:
        raise ValueError(
            f"explain.method={options['method']} leaves nothing to do with {subject.title}; "
            "give explain.method=[gradient,occlusion] or explain.receptive_field=true"
        )
    for name in ("tile", "batch_size"):
        if (value := options[name]) is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"explain.{name}={value}: give a positive number")
    methods: dict[str, Method] = {}
    if "gradient" in asked:
        layer = options["layer"] or default_layer(network.network)
        check_layer(network.network, layer)
        methods["gradient"] = partial(gradient_map, layer=layer)
    if "attention" in asked:
        methods["attention"] = attention_map
    if "occlusion" in asked:
        methods["occlusion"] = partial(
            occlusion_map,
            grey=(255 * torch.tensor(subject.spec.mean)).round().byte().to(subject.device),
            tile=options["tile"],
            batch=options["batch_size"] or 1,
            track=partial(track, "occluding"),
        )
    return {name: methods[name] for name in asked}


def places(out: Path, images: list[str]) -> Iterator[Path]:
    """A folder for each image, named after it; a number tells those of one name apart."""
    taken = {"explain.json", "receptive_field.png", "receptive_field.jpg"}
    for path in images:
        stem = name = Path(path).stem.strip(".") or "image"
        numbers = itertools.count(2)
        while name in taken:
            name = f"{stem}-{next(numbers)}"
        taken.add(name)
        yield out / name


def explain(
    path: str,
    subject: Subject,
    fresh: FromPixels | None,
    methods: dict[str, Method],
    place: Path,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Writes the overlays of an image, full and small.

    Args:
        path: of the image.
        subject: the network.
        fresh: one with random weights to compare with, or None.
        methods: by name.
        place: the folder to write to.
        options: those of the task.

    Returns:
        What the network says of the image, and what was written.
    """
    pixels, picture = subject.read(path), as_rgb(read_seen(path, subject.decoding))
    with torch.inference_mode():
        probabilities = subject.network(pixels)[0].softmax(dim=0).tolist()
    classes = subject.spec.classes
    answer = max(range(len(classes)), key=probabilities.__getitem__)
    target = classes.index(options["target"]) if options["target"] else answer
    place.mkdir(exist_ok=True)
    maps = {}
    for name, method in methods.items():
        began = time.perf_counter()
        found = method(subject.network, pixels, target)
        alike = rank_correlation(found, method(fresh, pixels, target)) if fresh else None
        text = f"{name}: {classes[target]}, probability {probabilities[target]:.3f}"
        save_overlay(place / name, picture, found, text, colours=options["colours"], alpha=options["alpha"])
        maps[name] = {
            "png": f"{place.name}/{name}.png",
            "jpg": f"{place.name}/{name}.jpg",
            "unit": found.unit,
            "range": found.range,
            "cells": list(found.values.shape),
            "correlation_with_random": alike,
            "seconds": time.perf_counter() - began,
        }
    return {
        "class": classes[answer],
        "probability": probabilities[answer],
        "target": classes[target],
        "size": list(picture.shape[1:]),
        "maps": maps,
    }


def receptive_fields(
    subjects: list[Subject], images: list[str], out: Path, seed: int, *, skips: bool
) -> list[dict[str, Any]]:
    """Those of each network, with random weights and trained, over all images: a figure, and figures."""

    def readable(subject: Subject) -> Iterator[Tensor]:
        for path in track("receptive field", images, len(images)):
            with suppress(*[UnreadableImageError] if skips else []):
                yield subject.read(str(path))

    fields = [
        (subject.title, state, receptive_field(network, readable(subject)))
        for subject in subjects
        for state, network in (("random weights", subject.untrained(seed)), ("trained", subject.network))
    ]
    for ending in ("png", "jpg"):
        with open_whole(out / f"receptive_field.{ending}") as file:
            draw(fields).savefig(file, format=ending, dpi=100)
    return [
        {"network": title, "weights": state}
        | {f"half_side_{share}": half_side(field, share / 100) for share in (50, 95)}
        for title, state, field in fields
    ]


def show(record: dict[str, Any], out: Path) -> None:
    """Tables of what was written, and where."""
    if record["images"]:
        table = Table("image", "class", "maps speak for", "method", "like random weights", "seconds", "overlay")
        for row in record["images"]:
            name = Path(row["path"]).name.encode(errors="replace").decode()
            if "error" in row:
                table.add_row(name, "no answer")
            for method, about in row.get("maps", {}).items():
                alike = about["correlation_with_random"]
                table.add_row(
                    name,
                    f"{row['class']} {row['probability']:.3f}",
                    row["target"],
                    method,
                    "" if alike is None else f"{alike:.2f}",
                    f"{about['seconds']:.1f}",
                    about["png"].encode(errors="replace").decode(),
                )
        table.caption = "like random weights: the rank correlation with the map of random weights; 1 is the same map"
        results().print(table)
    if "receptive_field" in record:
        table = Table("network", "weights", "half of the gradient within", "95 % within")
        for row in record["receptive_field"]:
            shares = (f"{row[f'half_side_{share}']:.3f}" for share in (50, 95))
            table.add_row(row["network"], row["weights"], *shares)
        table.caption = "distance from the central position, as a share of the shorter side: receptive_field.png"
        results().print(table)
    log.info("peak memory %.2f GiB", record["peak_memory_gib"])
    print(out)
