"""Where the time of a call goes, operator by operator, and what this machine could do at most."""

import json
import subprocess
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from hct_lightning.benchmarks.inference.one_image import is_served_in_cpp, random_png
from hct_lightning.benchmarks.inference.subjects import Model
from hct_lightning.data.reading.geometry import Size
from hct_lightning.deploy.artifact import load_artifact
from hct_lightning.machine.runtime import resolve_precision

SIDE = 2048  # of the matrices whose product is timed
COPIED = 2**28  # bytes, more than caches hold of what two cores use at once
CALLS = 5
WARM = 2  # calls before these, in which memory is new
SHOWN = 15  # operators of an artifact
_IN_WORDS = {
    "fp32": "products in fp32, GOP/s",
    "bf16": "products in bf16, GOP/s",
    "int8": "products in int8, GOP/s",
    "GB/s": "memory, read and written, GB/s",
}


def fastest(work: Callable[[], object], calls: int = CALLS) -> float:
    """The least seconds of some calls, for a peak is what can be reached at all."""
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def peaks(side: int = SIDE, copied: int = COPIED) -> dict[str, float]:
    """What this machine reaches: products of matrices in GOP/s (a multiply-add is two), copies in GB/s read and written.

    bf16 is left out where the CPU only emulates it. int8 is the faster of torch's two ways: signed by signed, which is a
    plain loop on CPUs without VNNI and left out there, and quantized linear layers.
    """
    dtypes = {"fp32": torch.float32}
    if resolve_precision("auto", "cpu") == "bf16-mixed":
        dtypes["bf16"] = torch.bfloat16
    operations = 2 * side**3 / 1e9
    found = {}
    for name, dtype in dtypes.items():
        matrix = torch.randn(side, side).to(dtype)
        found[name] = operations / fastest(lambda m=matrix: m @ m)
    found["int8"] = operations / min(fastest(product) for product in _int8_products(side))
    source, target = torch.ones(copied, dtype=torch.uint8), torch.empty(copied, dtype=torch.uint8)
    found["GB/s"] = 2 * copied / 1e9 / fastest(lambda: target.copy_(source))
    return found


def _int8_products(side: int) -> Iterator[Callable[[], object]]:
    if torch.cpu._is_vnni_supported() or torch.cpu._is_amx_tile_supported():
        signed = torch.randint(-128, 128, (side, side), dtype=torch.int8)
        yield lambda: torch._int_mm(signed, signed)
    values = torch.randn(side, side)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and what torchscript_int8 computes with
        pixels = torch.quantize_per_tensor(values, 0.05, 128, torch.quint8)
        packed = torch.ops.quantized.linear_prepack(torch.quantize_per_tensor(values, 0.05, 0, torch.qint8), None)
    yield lambda: torch.ops.quantized.linear(pixels, packed, 1.0, 0)


def operations(network: nn.Module, shape: tuple[int, int, int, int]) -> float:
    """Of convolutions and products in a call, in GOP; counted on fake tensors.

    Args:
        network: takes uint8 images.
        shape: n c h w.
    """
    with FakeTensorMode() as fake, torch.no_grad(), FlopCounterMode(display=False) as counter:
        network._apply(fake.from_tensor)
        network.eval()(torch.empty(shape, dtype=torch.uint8))
    return counter.get_total_flops() / 1e9


def operators(model: Model, pixels: Tensor) -> list[dict[str, Any]]:
    """Seconds of each kind of operator in one call of an artifact, the longest first.

    Args:
        model: an artifact.
        pixels: 1 c h w uint8.
    """
    ways = {"openvino": _of_openvino, "onnx": _of_onnx}
    times = ways.get(model.about["runtime"], _of_torch)(model, pixels)
    return by_time(times)


def operators_in_cpp(program: Path, model: Model, image: Path) -> list[dict[str, Any]]:
    """The same of a call by the C++ program.

    Raises:
        RuntimeError: with what the program says, when it does not answer.
    """
    done = subprocess.run([program, "--profile", model.where, image], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{program} --profile {model.where}: {done.stderr.strip()}")
    return by_time(json.loads(done.stdout)["operators"])


def by_time(times: Mapping[str, float]) -> list[dict[str, Any]]:
    """A row for each kind of operator, the longest first."""
    return [{"operator": n, "s": s} for n, s in sorted(times.items(), key=lambda kind: kind[1], reverse=True)]


def _of_torch(model: Model, pixels: Tensor) -> Counter[str]:
    artifact = load_artifact(model.where)
    for _ in range(3):
        artifact.logits(pixels)
    with profile(activities=[ProfilerActivity.CPU]) as record:
        for _ in range(CALLS):
            artifact.logits(pixels)
    return Counter({event.key: event.self_cpu_time_total / 1e6 / CALLS for event in record.key_averages()})


def _of_openvino(model: Model, pixels: Tensor) -> Counter[str]:
    """Each node's mean time, by type and kernel."""
    import openvino

    from hct_lightning.deploy.runtimes.openvino import prepare

    request, brought = prepare(Path(model.where) / model.about["file"], model.about, profile=True)()
    stem = {("stem", "pixels brought into form, with the stem where it is ours"): fastest(lambda: brought(pixels))}
    given = openvino.Tensor(brought(pixels).numpy(), shared_memory=True)

    def means(calls: int) -> dict[tuple[str, str], float]:
        for _ in range(calls):
            request.infer([given])
        nodes = request.profiling_info
        return {(n.node_name, f"{n.node_type} {n.exec_type}"): n.real_time.total_seconds() for n in nodes}

    return _summed(stem | without_first(means(WARM), WARM, means(CALLS), WARM + CALLS))


def without_first(first: Mapping[Any, float], calls: int, mean: Mapping[Any, float], of: int) -> dict[Any, float]:
    """Means of the calls after the first ones. OpenVINO's are of all calls that a model has had.

    Args:
        first: means of the first `calls`.
        mean: means `of` so many calls, the first among them.
    """
    return {key: max(0.0, (seconds * of - first[key] * calls) / (of - calls)) for key, seconds in mean.items()}


def _of_onnx(model: Model, pixels: Tensor) -> Counter[str]:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.enable_profiling, options.profile_file_prefix = True, f"{folder}/profile"
        session = onnxruntime.InferenceSession(Path(model.where) / model.about["file"], options)
        for _ in range(CALLS):
            session.run(None, {"pixels": pixels.contiguous().numpy()})
        events = json.loads(Path(session.end_profiling()).read_text())
    least: dict[tuple[str, str], float] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            key = event["name"], event["args"]["op_name"]
            least[key] = min(least.get(key, float("inf")), event["dur"] / 1e6)
    return _summed(least)


def _summed(least: Mapping[tuple[str, str], float]) -> Counter[str]:
    total: Counter[str] = Counter()
    for (_, kind), seconds in least.items():
        total[kind] += seconds  # type: ignore[assignment] -- a Counter of seconds
    return total


def profiled(
    models: Mapping[str, Model],
    served: Mapping[str, Model],
    rows: Sequence[dict[str, Any]],
    size: Size,
    program: Path | None,
    out: Path,
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Tables of the machine's peaks and of each artifact's operators, in Python and by the C++ program where it serves
    them, and the least `vs_limit` of an artifact.

    `vs_limit`, which rows on the CPU get, is their time in times of what the arithmetic alone would take at the peak
    of their precision. A checkpoint or a network of timm says how much arithmetic that is: where there is none, it
    is left out.

    Args:
        models: all that are measured, by name.
        served: those of them that take images of `size`.
        rows: of the benchmark, changed in place.
        size: (height, width).
        program: in C++; None where there is none.
        out: a folder for what lasts no longer than this.
    """
    most = peaks()
    tables = [
        {"title": "What this machine reaches", "rows": [{"what": _IN_WORDS[k], "rate": v} for k, v in most.items()]}
    ]
    spec = next((model.spec for model in models.values() if model.spec), None)
    ratios = {}
    if spec:
        work = operations(spec.build(), (1, spec.decoding.channels, *size))
        at_size = f"{size[0]}x{size[1]}"
        for row in rows:
            counts = row["size"] == at_size and row["device"] == "cpu"
            limit = row["batch"] * work / most.get(row["precision"], most["fp32"])
            row["vs_limit"] = row["p50_s"] / limit if counts and row["p50_s"] else None
        ours = [row for row in rows if row["side"] in served and row["vs_limit"]]
        ratios["best_vs_limit"] = min(ours, key=lambda row: row["p50_s"] / row["batch"])["vs_limit"]
    for name, model in served.items():
        if model.kind == "artifact":
            pixels = torch.randint(0, 256, (1, *size, model.decoding.channels), dtype=torch.uint8).permute(0, 3, 1, 2)
            tables.append({"title": f"Operators of {name}", "rows": operators(model, pixels)[:SHOWN]})
        if program and is_served_in_cpp(model):
            image = random_png(size, out / "random.png")
            found = operators_in_cpp(program, model, image)
            tables.append({"title": f"Operators of {name} in C++", "rows": found[:SHOWN]})
            image.unlink()
    return tables, ratios
