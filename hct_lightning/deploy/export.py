"""Makes artifacts, whole or not at all, and holds them to the network that they come from."""

import contextlib
import inspect
import json
import logging
import shutil
import statistics
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hct_lightning.deploy.artifact import (
    FORMAT,
    Artifact,
    Exported,
    digest,
    instruction_set,
    load_artifact,
)
from hct_lightning.deploy.int8.layers import layers, sqnr_db

log = logging.getLogger(__name__)

Exporter = Callable[..., Exported]
EXAMPLE = (512, 512)  # px, of a network whose images keep their sizes


def choose_exporters(export: Mapping[str, Any]) -> dict[str, Any]:
    """Those among the options of the group `export`, by the names of their artifacts.

    Raises:
        ValueError: for another option that is none, so that a run says so before it trains.
    """
    for name in ("dynamic", "log"):
        if not isinstance(export[name], bool):
            raise ValueError(f"export.{name}={export[name]}: give true or false")
    for name, least in (("calibration", 1), ("evaluation", 0)):
        if isinstance(export[name], bool) or not isinstance(export[name], int) or export[name] < least:
            raise ValueError(f"export.{name}={export[name]}: give a number of images, {least} or more")
    return {name: option for name, option in export.items() if callable(option)}


def options_of(exporter: Exporter) -> Collection[str]:
    """The names of what an exporter can be told, such as `calibration` (to int8) and `percent` (of the layers)."""
    return inspect.signature(exporter).parameters


def check_open_sizes(exporters: Mapping[str, Any]) -> None:
    """Raises ValueError for exporters whose artifacts can't take an image of any size: all but those to TorchScript."""
    for name, exporter in exporters.items():
        if not inspect.unwrap(getattr(exporter, "func", exporter)).__module__.endswith(".torchscript"):
            raise ValueError(
                f"export={name} takes one size, or multiples of 32 pixels, and data.resolution=native has any; choose "
                "among export=[torchscript,torchscript_int8,torchscript_int8_dynamic], or export=[]"
            )


class NoImagesError(ValueError):
    """There is nothing to compare on."""


class Reference:
    """What the fp32 network answers on labelled images.

    Args:
        network: takes uint8 images, in eval mode.
        batches: of uint8 images, labels and indices, negative where an image is not to be counted; gone through once
            for each artifact.

    Raises:
        NoImagesError: when no image is to be counted.
    """

    def __init__(self, network: nn.Module, batches: Iterable[tuple[Tensor, Tensor, Tensor]]) -> None:
        self.batches = batches
        with torch.inference_mode():
            answers = [(network(images).float(), labels) for images, labels in self._counted()]
        if not answers:
            raise NoImagesError(
                "none of the validation images that export.evaluation asks for can be read; mend them, or give "
                "export.evaluation=0"
            )
        logits, labels = zip(*answers, strict=True)
        self.logits, self.labels = torch.cat(logits), torch.cat(labels)

    def _counted(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels, index in self.batches:
            if (index >= 0).all():
                yield images, labels

    def compare(self, artifact: Artifact) -> dict[str, float]:
        """Accuracy before and after, agreement of the predictions, noise of the logits."""
        logits = torch.cat([artifact.logits(images) for images, _ in self._counted()])
        exact, given = self.logits.argmax(dim=1), logits.argmax(dim=1)
        return {
            "images": len(self.labels),
            "accuracy_fp32": (exact == self.labels).float().mean().item(),
            "accuracy": (given == self.labels).float().mean().item(),
            "agreement": (given == exact).float().mean().item(),
            "sqnr_db": sqnr_db(self.logits, logits),
        }


def export_artifact(
    name: str,
    exporter: Exporter,
    network: nn.Module,
    folder: Path,
    *,
    spec: Mapping[str, Any],
    dynamic: bool = False,
    calibration: Iterable[Tensor] | None = None,
    reference: Reference | None = None,
) -> Path:
    """Makes the artifact `folder/name`, replacing an earlier one as a whole.

    Args:
        name: of the artifact.
        exporter: called with the network, an example batch and the folder to write to.
        network: takes uint8 images, in eval mode, on the CPU.
        folder: where artifacts lie.
        spec: what the network is, as `NetworkSpec.as_json` says it. The artifact carries its `classes` and `decoding`
            whole, and takes the decoding's `channels` and `size`; exporters that have an option `spec` get all of it.
        dynamic: leave height and width open instead of fixing the size.
        calibration: batches of uint8 training images; exporters to int8 need them.
        reference: to compare the artifact with; its figures are kept beside the model.

    Raises:
        RuntimeError: when an fp32 artifact does not give the network's own answer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target, making, before = folder / name, folder / f".{name}.tmp", folder / f".{name}.old"
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir()
    started = time.perf_counter()
    try:
        decoding = spec["decoding"]
        if not decoding["size"]:
            check_open_sizes({name: exporter})
            dynamic = True
        shape = (1, decoding["channels"], *(decoding["size"] or EXAMPLE))
        generator = torch.Generator().manual_seed(0)
        example = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        options: dict[str, Any] = {"dynamic": dynamic}
        for option, value in (("calibration", calibration), ("spec", spec)):
            if option in options_of(exporter):
                options[option] = value
        made = exporter(network, example, making, **options)
        description = describe(name, made, making, spec=spec, dynamic=dynamic)
        write(description, making)
        served = load_artifact(making)
        with torch.inference_mode():
            error = (served(example) - network(example).float().softmax(dim=1)).abs().max().item()
        if made.precision == "fp32" and not error < 1e-3:
            raise RuntimeError(f"{name} differs from the network by {error:.2g} in probability")
        metrics = description["metrics"]
        if made.int8:
            metrics |= {f"int8_{kind}": count for kind, count in made.int8.items()}
            metrics["layers"] = made.layers or len(layers(network))
        metrics["time_ms"] = latency_ms(served, example)
        if reference:
            metrics |= reference.compare(served)
        write(description, making)
        shutil.rmtree(before, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            target.replace(before)  # not removed yet: on NFS a folder whose file is open can't be
        making.replace(target)
        shutil.rmtree(before, ignore_errors=True)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    seconds = time.perf_counter() - started
    log.info("exported %s in %.1f s: %s -> %s", name, seconds, in_words(description), target)
    return target


def describe(name: str, made: Exported, folder: Path, *, spec: Mapping[str, Any], dynamic: bool) -> dict[str, Any]:
    """What `artifact.json` says of the files in `folder`, its metrics still empty."""
    decoding = spec["decoding"]
    files = sorted(folder.iterdir())
    return {
        "format": FORMAT,
        "name": name,
        "runtime": made.runtime,
        "precision": made.precision,
        "file": made.file,
        "input": {
            "batch": made.batch,
            "channels": decoding["channels"],
            "min": [128, 128] if dynamic else list(decoding["size"]),
            "max": None if dynamic else list(decoding["size"]),
            "multiple": made.multiple if dynamic else 1,
            "layout": "NCHW uint8",
        },
        "classes": list(spec["classes"]),
        "decoding": dict(decoding),
        "size_bytes": sum(file.stat().st_size for file in files),
        "sha256": {file.name: digest(file) for file in files},
        "versions": {"torch": torch.__version__, "hct-lightning": version("hct-lightning")},
        "instruction_set": instruction_set(),
        "metrics": {},
    }


def write(description: Mapping[str, Any], folder: Path) -> None:
    (folder / "artifact.json").write_text(json.dumps(description, indent=2) + "\n")


def latency_ms(artifact: Artifact, image: Tensor) -> float:
    """Median time of a call on one image, after three to warm up."""
    times = []
    for _ in range(8):
        start = time.perf_counter()
        artifact(image)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[3:])


def in_words(description: Mapping[str, Any]) -> str:
    """Size, time and what is known of the accuracy, in a line."""
    metrics = description["metrics"]
    words = [f"{description['size_bytes'] / 1e6:.2f} MB", f"{metrics['time_ms']:.1f} ms"]
    if "layers" in metrics:
        int8 = metrics["int8_convolutions"] + metrics["int8_linears"]
        words.append(f"{int8} of {metrics['layers']} layers in int8")
    if "accuracy" in metrics:
        words.append(
            f"accuracy {metrics['accuracy']:.4f} (fp32 {metrics['accuracy_fp32']:.4f}), "
            f"agreement {metrics['agreement']:.4f}, SQNR {metrics['sqnr_db']:.1f} dB"
        )
    return ", ".join(words)
