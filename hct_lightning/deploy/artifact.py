"""The artifact: a folder with a model file and `artifact.json`, and the loader that serves it.

The model file takes n c h w uint8 and gives fp32 logits, n classes, whatever the runtime.
A runtime is a module of `deploy/runtimes` with `export` and `load`.
"""

import contextlib
import hashlib
import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hct_lightning.deploy.trust import is_own
from hct_lightning.machine import runtime

FORMAT = 2
MAX_PIXELS_OF_FORMAT_1 = 2**30  # it was the default, and not written down


class Exported(NamedTuple):
    """What an exporter made.

    runtime: the module that loads it: `torchscript`, `openvino`, `aoti`, `onnx` or `timm`.
    precision: `fp32`, `bf16` or `int8`.
    file: the model file's name inside the artifact's folder.
    batch: images that one call takes; None for any number. `Artifact` calls as often as it needs.
    multiple: height and width must be multiples of this.
    int8: how many convolutions and linears the runtime really computes in int8.
    layers: of how many in all; None: of those of the network.
    """

    runtime: str
    precision: str
    file: str
    batch: int | None = 1
    multiple: int = 1
    int8: Mapping[str, int] | None = None
    layers: int | None = None


RUNTIMES = ("torchscript", "openvino", "aoti", "onnx", "timm")
USE_MALLOC = (
    "torchscript",
    "aoti",
    "timm",
)  # those that ask the C library for memory at every call; others keep their own
ONE_AT_A_TIME = ("aoti",)  # those whose model file says itself how many threads a call takes
BY_TORCH = ("torchscript", "timm")  # those whose threads are a setting of PyTorch, and no part of what is loaded
PROGRAMS = ("torchscript", "aoti")  # those that run what the model file says, and not only compute with it


def instruction_set() -> str:
    """What compiled code may use here: `AVX2 avx_vnni`, say, with all of AVX-512 and AMX that there is.

    Other CPUs than x86 have all that PyTorch knows of them, such as `neon` and `sve`.
    """
    has = torch.cpu.get_capabilities()
    beyond = ("amx_", "avx512_", "avx_") if "avx2" in has else ""
    extras = sorted(name for name, value in has.items() if value is True and name.startswith(beyond))
    return " ".join([torch.backends.cpu.get_cpu_capability(), *extras])


def digest(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


class Artifact:
    """A model ready to serve: `artifact(images)` gives probabilities.

    Attributes:
        description: the content of `artifact.json`.
        classes: names in the order of the probabilities.
        streams: callers that it computes for at once, each on its share of the threads; others wait.
    """

    def __init__(self, description: Mapping[str, Any], run: Callable[[Tensor], Tensor], streams: int = 1) -> None:
        self.description = description
        self.streams = streams
        self.classes = list(description["classes"])
        self._run = run

    def __call__(self, images: Tensor) -> Tensor:
        """n c h w uint8 -> n classes probabilities, fp32.

        Raises:
            ValueError: when the images are not what the artifact takes, or it names other classes than its model has.
        """
        return self.logits(images).softmax(dim=1)

    def logits(self, images: Tensor) -> Tensor:
        """n c h w uint8 -> n classes logits, fp32; errors as above."""
        self._check(images)
        if not len(images):
            return torch.empty((0, len(self.classes)))
        with torch.inference_mode():
            batches = images.split(self.description["input"]["batch"] or len(images))
            found = torch.cat([self._run(batch) for batch in batches])
        if found.shape != (len(images), len(self.classes)):
            raise ValueError(
                f"the model gives {tuple(found.shape)} for {len(images)} images where artifact.json names "
                f"{len(self.classes)} classes; export it again"
            )
        return found

    def _check(self, images: Tensor) -> None:
        takes = self.description["input"]
        if not isinstance(images, Tensor):
            raise ValueError(f"images are {type(images).__name__}; give a tensor, as torch.from_numpy(array)")
        if images.device.type != "cpu":
            raise ValueError(f"images are on {images.device}, and an artifact computes on the CPU; give images.cpu()")
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(f"images are {images.dtype} of shape {tuple(images.shape)}; give uint8 n c h w")
        _, channels, *size = images.shape
        if channels != takes["channels"]:
            raise ValueError(f"images have {channels} channels; this takes {takes['channels']}, as n c h w")
        low, high = takes["min"], takes["max"] or [2**31, 2**31]
        fits = all(a <= side <= b for a, side, b in zip(low, size, high, strict=True))
        if not fits or any(side % takes["multiple"] for side in size):
            wanted = f"exactly {low}" if low == takes["max"] else f"at least {low}"
            multiple = f", multiples of {takes['multiple']}" if takes["multiple"] > 1 else ""
            raise ValueError(
                f"images are {size[0]}x{size[1]}; this artifact takes {wanted}{multiple} "
                "(export.dynamic=true opens the size)"
            )


def load_artifact(
    folder: str | Path,
    *,
    threads: int | None = None,
    streams: int = 1,
    keep_memory: bool | None = None,
    trust: bool = False,
) -> Artifact:
    """Loads an artifact to serve it.

    Args:
        folder: with `artifact.json` and the model file.
        threads: that are used in all; None leaves it to the runtime.
        streams: threads of the caller's that call it at once, each on its share of `threads`. An image then takes
            longer, and many of them less. AOTInductor's packages always have one.
        keep_memory: see `runtime.keep_memory`; a setting of the whole process. None: where it makes calls twice as
            fast, for the runtimes of `USE_MALLOC`. False leaves the process as it is.
        trust: run what someone else has made, or another machine, as it is: machine code (AOTInductor's), and
            TorchScript whatever it names.

    Raises:
        FileNotFoundError: when it isn't an artifact.
        ValueError: for another format, a changed file, an unknown runtime, another machine's or a stranger's code, and
            for no threads or streams.
        ImportError: when the runtime isn't installed.
    """
    for name, count in (("threads", threads), ("streams", streams)):
        if count is not None and (not isinstance(count, int) or count < 1):
            raise ValueError(f"{name}={count!r}: give a whole number of at least 1")
    folder = Path(folder)
    description = read_description(folder)
    if description["runtime"] not in RUNTIMES:
        raise ValueError(f"{folder}: runtime {description['runtime']!r:.50} is unknown to this version")
    file = checked_file(folder, description)
    options = {}
    if description["runtime"] in PROGRAMS:
        options["trusted"] = trust or is_own(description["sha256"][file.name])
    if description["runtime"] in ONE_AT_A_TIME:
        streams = 1
    if streams > 1:
        threads = threads or runtime.cpu_count()
        if streams > threads:
            raise ValueError(f"streams={streams} is more than there are threads ({threads}); give {threads} or fewer")
    if threads is not None:
        torch.set_num_threads(threads // streams)  # of each thread that calls
    if description["runtime"] in USE_MALLOC if keep_memory is None else keep_memory:
        runtime.keep_memory()
    try:
        server = importlib.import_module(f"hct_lightning.deploy.runtimes.{description['runtime']}")
    except ImportError as error:
        raise ImportError(f"{folder}: {error}") from error
    try:
        return Artifact(description, server.load(file, description, threads, streams, **options), streams)
    except MemoryError:
        raise  # another export needs no less
    except Exception as error:  # each runtime has its own for a file that it can't read
        if isinstance(error, ValueError) and str(file) in str(error):
            raise
        raise ValueError(f"{file} can't be loaded: {reason_of(error)}; export it again") from error


def reason_of(error: Exception) -> str:
    """The line that says why. OpenVINO's errors begin with where in its source they were thrown."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return next((line for line in lines if not line.startswith(("Exception from ", "Check '"))), lines[-1])


def checked_file(folder: Path, description: Mapping[str, Any]) -> Path:
    """The model file; all files are those that the description has the digests of.

    Raises:
        ValueError: when one has changed, or lies elsewhere.
    """
    if description["file"] not in description["sha256"]:
        raise ValueError(f"{folder}: artifact.json gives no digest of {description['file']!r:.200}")
    for name, expected in description["sha256"].items():
        file = folder / name
        if Path(name).name != name:
            raise ValueError(f"{folder}: artifact.json names a file outside its folder")
        if not file.is_file() or digest(file) != expected:
            raise ValueError(f"{file} has changed since it was exported; export it again")
    return folder / description["file"]


def read_description(folder: Path) -> dict[str, Any]:
    """What `artifact.json` says, in the form of this version.

    Raises:
        FileNotFoundError: when the folder holds none.
        ValueError: when it is of another format or damaged.
    """
    file = folder / "artifact.json"
    if not file.is_file():
        raise FileNotFoundError(f"{folder} is no artifact: it holds no artifact.json")
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
        made_as = description.get("format")
        if made_as == 1:
            description["decoding"] = _decoding_of_format_1(description)
    except (ValueError, AttributeError, KeyError, RecursionError, TypeError) as error:
        raise ValueError(f"{file} is damaged: {error!r:.200}; export it again") from error
    if isinstance(made_as, bool) or made_as not in (1, FORMAT):
        raise ValueError(
            f"{folder} has format {made_as!r:.50}, this version reads {FORMAT}; export it again with this version"
        )
    try:
        _check(description)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is damaged: {error!r:.200}; export it again") from error
    return description | {"format": FORMAT}


def _check(description: Mapping[str, Any]) -> None:
    """Raises a KeyError or a TypeError for what is missing or of another kind than it should be."""
    takes, classes, digests = description["input"], description["classes"], description["sha256"]
    texts = [description[name] for name in ("file", "runtime", "precision", "instruction_set")]
    texts += [description["versions"]["torch"], *classes, *digests, *dict(digests).values()]
    sides = [*takes["min"], *(takes["max"] or takes["min"])]
    numbers = [*sides, takes["channels"], takes["multiple"], takes["batch"] or 1]
    whole = isinstance(classes, list) and classes and isinstance(description["decoding"], dict)
    if not whole or not all(isinstance(text, str) for text in texts):
        raise TypeError("a text, or the list of classes, is of another kind")
    if len(sides) != 4 or not all(type(number) is int and number > 0 for number in numbers):
        raise TypeError("the sizes of its input are no positive numbers")
    measured = [description["size_bytes"], *dict(description["metrics"]).values()]
    if not all(type(number) in (int, float) for number in measured):
        raise TypeError("its size or a metric is no number")


def _decoding_of_format_1(description: Mapping[str, Any]) -> dict[str, Any]:
    """There some of its parts stood beside the classes, and the others nowhere."""
    return {
        "version": 1,
        "channels": description["input"]["channels"],
        "size": description["resolution"],
        "geometry": description["geometry"],
        "max_pixels": MAX_PIXELS_OF_FORMAT_1,
        "window": description["window"],
        "srgb": False,
        "breast": False,
        "reduce_to": None,
    }


def read_descriptions(folder: Path) -> dict[str, dict[str, Any]]:
    """`artifact.json` of every artifact under `folder`, by name; not of one that was being made."""
    found = {}
    for file in sorted(folder.glob("[!.]*/artifact.json")):
        with contextlib.suppress(ValueError):
            found[file.parent.name] = read_description(file.parent)
    return found
