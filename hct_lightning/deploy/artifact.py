"""The artifact: a folder with a model file and `artifact.json`, and the loader that serves it.

The model file takes n c h w uint8 and gives fp32 logits, n classes, whatever the runtime.
A runtime is a module of this package with `export` and `load`.
"""

import contextlib
import hashlib
import importlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

FORMAT = 1


class Exported(NamedTuple):
    """What an exporter made.

    runtime: the module that loads it: `torchscript`, `openvino`, `aoti` or `onnx`.
    precision: `fp32`, `bf16` or `int8`.
    file: the model file's name inside the artifact's folder.
    batch: images that one call takes; None for any number. `Artifact` calls as often as it needs.
    multiple: height and width must be multiples of this.
    """

    runtime: str
    precision: str
    file: str
    batch: int | None = 1
    multiple: int = 1


RUNTIMES = ("torchscript", "openvino", "aoti", "onnx")

Exporter = Callable[..., Exported]


def export_artifact(
    name: str,
    exporter: Exporter,
    network: nn.Module,
    spec: Mapping[str, Any],
    folder: Path,
    *,
    dynamic: bool = False,
    metrics: Mapping[str, float] | None = None,
) -> Path:
    """Makes the artifact `folder/name`, replacing an earlier one as a whole.

    Args:
        name: of the artifact.
        exporter: called with the network, an example batch and the folder to write to.
        network: takes uint8 images, in eval mode, on the CPU.
        spec: see `hct_lightning.network`; says channels, resolution, classes and geometry.
        folder: where artifacts lie.
        dynamic: leave height and width open instead of fixing the resolution.
        metrics: of the checkpoint, kept beside the model.

    Raises:
        RuntimeError: when the artifact does not give the network's own answer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target, making = folder / name, folder / f".{name}.tmp"
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir()
    started = time.perf_counter()
    try:
        height, width = spec["resolution"]
        shape = (1, spec["channels"], height, width)
        generator = torch.Generator().manual_seed(0)
        example = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        made = exporter(network, example, making, dynamic=dynamic)
        description = {
            "format": FORMAT,
            "name": name,
            "runtime": made.runtime,
            "precision": made.precision,
            "file": made.file,
            "input": {
                "batch": made.batch,
                "channels": spec["channels"],
                "min": [128, 128] if dynamic else [height, width],
                "max": None if dynamic else [height, width],
                "multiple": made.multiple if dynamic else 1,
                "layout": "NCHW uint8",
            },
            "classes": list(spec["classes"]),
            "geometry": spec["geometry"],
            "resolution": [height, width],
            "window": spec.get("window"),
            "size_bytes": sum(p.stat().st_size for p in making.iterdir()),
            "sha256": {p.name: _digest(p) for p in sorted(making.iterdir())},
            "versions": {"torch": torch.__version__, "hct-lightning": version("hct-lightning")},
            "instruction_set": instruction_set(),
            "metrics": dict(metrics or {}),
        }
        (making / "artifact.json").write_text(json.dumps(description, indent=2) + "\n")
        served = load_artifact(making)
        with torch.inference_mode():
            expected = network(example).float().softmax(dim=1)
        error = (served(example) - expected).abs().max().item()
        if made.precision == "fp32" and not error < 1e-3:
            raise RuntimeError(f"{name} differs from the network by {error:.2g} in probability")
        shutil.rmtree(target, ignore_errors=True)
        making.replace(target)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    log.info(
        "exported %s: %.2f MB, off by %.1e, in %.1f s -> %s",
        name, description["size_bytes"] / 1e6, error, time.perf_counter() - started, target,
    )  # fmt: skip
    return target


def instruction_set() -> str:
    """What compiled code may use here: `AVX512 amx_tile avx512_bf16 avx512_vnni`, say."""
    has = torch.cpu.get_capabilities()
    extras = [name for name in ("amx_tile", "avx512_bf16", "avx512_vnni") if has.get(name)]
    return " ".join([torch.backends.cpu.get_cpu_capability(), *extras])


def _digest(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


class Artifact:
    """A model ready to serve: `artifact(images)` gives probabilities.

    Attributes:
        description: the content of `artifact.json`.
        classes: names in the order of the probabilities.
    """

    def __init__(self, description: Mapping[str, Any], logits: Callable[[Tensor], Tensor]) -> None:
        self.description = description
        self.classes = list(description["classes"])
        self.logits = logits

    def __call__(self, images: Tensor) -> Tensor:
        """n c h w uint8 -> n classes probabilities, fp32.

        Raises:
            ValueError: when the images are not what the artifact takes.
        """
        self._check(images)
        with torch.inference_mode():
            batches = images.split(self.description["input"]["batch"] or len(images))
            return torch.cat([self.logits(batch) for batch in batches]).softmax(dim=1)

    def _check(self, images: Tensor) -> None:
        takes = self.description["input"]
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(
                f"images are {images.dtype} of shape {tuple(images.shape)}; give uint8 n c h w"
            )
        _, channels, *size = images.shape
        if channels != takes["channels"]:
            raise ValueError(f"images have {channels} channels; this takes {takes['channels']}")
        low, high = takes["min"], takes["max"] or [2**31, 2**31]
        fits = all(a <= side <= b for a, side, b in zip(low, size, high, strict=True))
        if not fits or any(side % takes["multiple"] for side in size):
            wanted = f"exactly {low}" if low == takes["max"] else f"at least {low}"
            multiple = f", multiples of {takes['multiple']}" if takes["multiple"] > 1 else ""
            raise ValueError(
                f"images are {size[0]}x{size[1]}; this artifact takes {wanted}{multiple} "
                "(export.dynamic=true opens the size)"
            )


def load_artifact(folder: str | Path, *, threads: int | None = None) -> Artifact:
    """Loads an artifact to serve it.

    Args:
        folder: with `artifact.json` and the model file.
        threads: that a call may use; None leaves it to the runtime.

    Raises:
        FileNotFoundError: when it isn't an artifact.
        ValueError: for another format, a changed file, an unknown runtime or another machine's code.
        ImportError: when the runtime isn't installed.
    """
    folder = Path(folder)
    if not (folder / "artifact.json").is_file():
        raise FileNotFoundError(f"{folder} is no artifact: it holds no artifact.json")
    description = json.loads((folder / "artifact.json").read_text())
    if description.get("format") != FORMAT:
        raise ValueError(
            f"{folder} has format {description.get('format')}, this version reads {FORMAT}; "
            "export it again with this version"
        )
    if description["runtime"] not in RUNTIMES:
        raise ValueError(f"{folder}: runtime {description['runtime']!r} is unknown to this version")
    if description["file"] not in description["sha256"]:
        raise ValueError(f"{folder}: artifact.json gives no digest of {description['file']}")
    for name, digest in description["sha256"].items():
        file = folder / name
        if file.parent != folder:
            raise ValueError(f"{folder}: artifact.json names a file outside its folder")
        if not file.is_file() or _digest(file) != digest:
            raise ValueError(f"{file} has changed since it was exported; export it again")
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        runtime = importlib.import_module(f"hct_lightning.deploy.{description['runtime']}")
    except ImportError as error:
        raise ImportError(
            f"{folder} needs {error.name}, which is not installed: "
            "pip install 'hct-lightning[deploy]'"
        ) from error
    return Artifact(description, runtime.load(folder / description["file"], description, threads))


def read_descriptions(folder: Path) -> dict[str, dict[str, Any]]:
    """`artifact.json` of every artifact under `folder`, by name."""
    found = {}
    for file in sorted(folder.glob("*/artifact.json")):
        with contextlib.suppress(json.JSONDecodeError):
            found[file.parent.name] = json.loads(file.read_text())
    return found
