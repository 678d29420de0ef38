"""Where the network looks: maps over images, and the receptive field."""

import itertools
import json
import logging
import time
from collections.abc import Iterator
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
from hct_lightning.data.reading.image import UnreadableImageError, read_seen
from hct_lightning.data.reading.readers import FileReader, NativeReader
from hct_lightning.data.reading.regions import Regions
from hct_lightning.explain.maps import rank_correlation
from hct_lightning.explain.methods import Methods
from hct_lightning.explain.overlay import check_look, save_overlay
from hct_lightning.explain.places import Place, hottest, reduced
from hct_lightning.explain.receptive_field import draw, half_side, receptive_field
from hct_lightning.explain.streamed import StreamedMaps
from hct_lightning.machine.devices import choose_devices, peak_memory_gib
from hct_lightning.models import FromPixels
from hct_lightning.models.tiles import Source
from hct_lightning.runs.console import results, track
from hct_lightning.runs.files import open_whole, write_whole
from hct_lightning.runs.folder import Run
from hct_lightning.training.checkpoints import load_network
from hct_lightning.training.large_images import StreamsInMemory, tiles_done, way_through
from hct_lightning.training.spec import NetworkSpec

log = logging.getLogger(__name__)

EXPLAINING = 2  # an image in memory takes so many times what it takes where the network only answers
GAPS = 1.5  # the memory of an image over what it holds: one network after another leaves gaps in the heap
MAPS = 8  # of an image that is read by region, as large as the one after the first stages; gradients are among them


class Subject(NamedTuple):
    """A trained network, and how it reads images.

    room: bytes for an image that is read by region.
    """

    network: FromPixels
    spec: NetworkSpec
    reader: FileReader | NativeReader
    device: torch.device
    room: int

    @classmethod
    def of(cls, cfg: DictConfig, checkpoint: Path) -> "Subject":
        network, spec = load_network(checkpoint, cfg.safety.allow)
        decoding = spec.reading(given_options(cfg, "data", *spec.unsaid), plain(cfg.explain)["resolution"])
        device = choose_devices(cfg.trainer.accelerator, 1, 1, 1).of_rank_zero
        threads, room = torch.get_num_threads(), 0  # images are read one at a time
        reader = FileReader(decoding, threads) if decoding.size else NativeReader(decoding)
        if isinstance(reader, NativeReader):
            way = way_through(
                reader,
                device,
                max_memory_gb=cfg.explain.max_memory_gb,
                batch_size=1,
                micro_batches=1,
                ranks_here=1,
                build=spec.build,
                precision="32-true",
            )
            reader, room = reader.opening(way.most_pixels // EXPLAINING), way.room
        return cls(network.requires_grad_(False).to(device), spec, reader, device, room)

    def untrained(self, seed: int) -> FromPixels:
        """The same network with random weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.spec.build().eval().requires_grad_(False).to(self.device)

    def read(self, path: str) -> Tensor | Regions:
        """1 c h w uint8, on the device; or an image that is read by region."""
        image = self.reader.open(path) if isinstance(self.reader, NativeReader) else self.reader(path)
        return image[None].to(self.device) if isinstance(image, Tensor) else image

    def stream(self, network: FromPixels, source: Source) -> StreamedMaps:
        """Takes an image that is read by region through a network."""
        streamed = StreamsInMemory(network, int(self.room / GAPS), maps=MAPS).fitted(source)
        return StreamedMaps(streamed, source, tiles_done(source))

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
    options |= {name: str(options[name]) for name in ("target", "against", "output") if options[name] is not None}
    check_look(options["colours"], options["alpha"])
    if not isinstance(options["places"], int) or options["places"] < 0:
        raise ValueError(f"explain.places={options['places']}: give a number, 0 for none")
    images = find_images(options["input"], "explain.input")
    skips = skips_unreadable(cfg.data.on_error, images, "explain.input")
    subject = Subject.of(cfg, Run(folder).checkpoint(cfg.ckpt or "best"))
    if options["target"] not in (None, *subject.spec.classes):
        raise ValueError(f"explain.target={options['target']}: the classes are {', '.join(subject.spec.classes)}")
    methods = Methods(subject.network, options, subject.spec.mean, subject.title)
    fields = {subject.title: subject} if options["receptive_field"] else {}
    if against := options["against"] and Path(options["against"]).expanduser():
        if not fields:
            raise ValueError(
                f"explain.against={against}: it compares receptive fields; add explain.receptive_field=true"
            )
        other = Subject.of(cfg, Run(against).checkpoint("best"))
        fields[other.title if other.title not in fields else f"{other.title}, {against.name}"] = other

    out = Path(options["output"] or folder / "explain").expanduser()
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    record: dict[str, Any] = {"methods": list(methods.names), "images": rows}
    try:
        if methods.names:
            fresh = subject.untrained(cfg.seed) if options["sanity"] else None
            for path, into in zip(images, folders(out, images), strict=True):
                log.info("%s (%d of %d)", path, len(rows) + 1, len(images))
                try:
                    rows.append({"path": path} | explain(path, subject, fresh, methods, into, options))
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


def folders(out: Path, images: list[str]) -> Iterator[Path]:
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
    methods: Methods,
    folder: Path,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Writes the overlays of an image, full and small; of one that is read by region reduced, and of places in full.

    Args:
        path: of the image.
        subject: the network.
        fresh: one with random weights to compare with, or None.
        methods: that make the maps.
        folder: to write to.
        options: those of the task.

    Returns:
        What the network says of the image, and what was written.
    """
    image, classes = subject.read(path), subject.spec.classes
    look = methods.look(subject.network, image, subject.stream)
    probabilities = look.logits.softmax(dim=0).tolist()
    answer = max(range(len(classes)), key=probabilities.__getitem__)
    target = answer if options["target"] is None else classes.index(options["target"])
    maps, seconds = {}, {}
    for name, method in look.maps.items():
        began = time.perf_counter()
        maps[name] = method(target)
        seconds[name] = time.perf_counter() - began
    del look, method  # of an image that is read by region they hold a large map
    again = methods.look(fresh, image, subject.stream).maps if fresh else {}
    folder.mkdir(exist_ok=True)
    spots: dict[str, list[tuple[Place, Tensor]]] = {}
    if isinstance(image, Tensor):
        picture = as_rgb(read_seen(path, subject.reader.decoding))
        size = list(picture.shape[1:])
    else:
        picture, size = as_rgb(reduced(image)), [image.shape[0], image.shape[1]]
        for name, found in maps.items():
            hot = hottest(found, (size[0], size[1]), options["places"])
            spots[name] = [(one, as_rgb(one.read(image))) for one in hot]
    about = {}
    for name, found in maps.items():
        text = f"{name}: {classes[target]}, probability {probabilities[target]:.3f}"
        save = partial(save_overlay, text=text, colours=options["colours"], alpha=options["alpha"])
        save(folder / name, picture, found)
        about[name] = written(folder / name) | {
            "unit": found.unit,
            "range": found.range,
            "cells": list(found.values.shape),
            "correlation_with_random": rank_correlation(found, again[name](target)) if again else None,
            "seconds": seconds[name],
            "places": [],
        }
        for i, (one, pixels) in enumerate(spots.get(name, []), start=1):
            save(file := folder / f"{name}-{i}", pixels, one.found)
            sides = {"rows": [one.rows.start, one.rows.stop], "columns": [one.columns.start, one.columns.stop]}
            about[name]["places"].append(written(file) | sides)
    return {
        "class": classes[answer],
        "probability": probabilities[answer],
        "target": classes[target],
        "size": size,
        "maps": about,
    }


def written(file: Path) -> dict[str, Any]:
    """The pictures of an overlay, relative to the folder of all."""
    return {ending: f"{file.parent.name}/{file.name}.{ending}" for ending in ("png", "jpg")}


def receptive_fields(
    subjects: dict[str, Subject], images: list[str], out: Path, seed: int, *, skips: bool
) -> list[dict[str, Any]]:
    """Those of each network, by its name, with random weights and trained, over all images: a figure, and figures."""

    def readable(subject: Subject) -> Iterator[Tensor]:
        for path in track("receptive field", images, len(images)):
            with suppress(*[UnreadableImageError] if skips else []):
                if not isinstance(pixels := subject.read(str(path)), Tensor):
                    raise ValueError(
                        f"explain.receptive_field takes images that fit the memory, {path} does not; give "
                        "explain.resolution=2048, say"
                    )
                yield pixels

    fields = [
        (title, state, receptive_field(network, readable(subject)))
        for title, subject in subjects.items()
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
