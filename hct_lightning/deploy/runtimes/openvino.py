"""OpenVINO: the fast runtime on x86."""

import copy
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from hct_lightning.deploy import stem
from hct_lightning.deploy.artifact import Exported
from hct_lightning.deploy.extra import extra
from hct_lightning.deploy.program import MULTIPLE, program

with extra("deploy"):
    import openvino
    from openvino import opset13
    from openvino.preprocess import PrePostProcessor

FILE = "model.xml"  # the weights are in model.bin
FIRST_STAGES = "first_stages"  # the name of the map after those that an image can pass tile by tile
STEM = "stem"  # the name of the map that deploy/stem.py makes, where it can
_make: Any = openvino.Model  # whose stubs do not know how it is made of outputs and inputs


def convert(exported: ExportedProgram, example: Tensor, *, dynamic: bool) -> openvino.Model:
    """The program as an OpenVINO model in its own precision, `pixels` in, `logits` out.

    The shape is said again, for conversion loses it, and without it OpenVINO transposes images instead of computing
    on them as they lie.
    """
    model = openvino.convert_model(exported)
    b, c, h, w = example.shape
    model.reshape([b, c, -1, -1] if dynamic else [b, c, h, w])
    model.input().set_names({"pixels"})
    model.output().set_names({"logits"})
    return model


def name_first_stages(model: openvino.Model, exported: ExportedProgram, network: nn.Module) -> None:
    """Names the map after HCT's `local_stages`, so that a loader finds it. In other networks there is none."""
    from hct_lightning.models import HCT, FromPixels  # with timm 200 MB of memory, of which serving needs none

    if not (isinstance(network, FromPixels) and isinstance(network.network, HCT)):
        return
    # An operation is named after the node of the program that it comes from, and the node knows its module.
    stage = f"network.stages.{network.network.local_stages - 1}."
    nodes = [node for node in exported.graph.nodes if node.meta.get("nn_module_stack")]
    inside = {node.name for node in nodes if list(node.meta["nn_module_stack"].values())[-1][0].startswith(stage)}
    sums = [op for op in model.get_ordered_ops() if op.get_type_name() == "Add"]
    residual = [op for op in sums if op.get_friendly_name().split("/")[0] in inside]  # the last one ends the stage
    if residual:
        residual[-1].output(0).get_tensor().add_names({FIRST_STAGES})


def save(model: openvino.Model, folder: Path) -> None:
    """Writes `model.xml` and `model.bin`, weights as they are."""
    file = folder / FILE
    openvino.save_model(model, file, compress_to_fp16=False)
    file.write_bytes(re.sub(rb"^\t+", b"", file.read_bytes(), flags=re.MULTILINE))  # 48 kB of HCT's are indentation


def export(network: nn.Module, example: Tensor, folder: Path, *, dynamic: bool, precision: str) -> Exported:
    """Writes `model.xml` and `model.bin`, whose weights stay fp32.

    Args:
        network: takes uint8 images.
        example: 1 c h w uint8.
        folder: where the files are written.
        dynamic: open height and width.
        precision: in which OpenVINO computes, `fp32` or `bf16`.
    """
    network = copy.deepcopy(network).float()
    exported = program(network, example, dynamic=dynamic)
    model = convert(exported, example, dynamic=dynamic)
    name_first_stages(model, exported, network)
    save(model, folder)
    return Exported("openvino", precision, FILE, multiple=MULTIPLE)


def compile_model(file: Path, precision: str) -> openvino.CompiledModel:
    """The file as `prepare` compiles it, the stem among the rest."""
    return _compiled(openvino.Core().read_model(file), precision, {}, None)


def _compiled(
    model: openvino.Model, precision: str, options: Mapping[str, Any], threads: int | None
) -> openvino.CompiledModel:
    """Compiles the model for pixels in the order NHWC.

    The file takes NCHW, as the file of every artifact does, but decoded images lie in memory as NHWC: so no
    image is copied. Where the CPU does not compute in bf16, fp32 takes its place, which is faster there.
    """
    core = openvino.Core()
    steps = PrePostProcessor(model)
    steps.input().tensor().set_layout(openvino.Layout("NHWC"))
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    bf16 = precision != "fp32" and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    chosen: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
        **options,
    }
    if threads is not None:
        chosen["INFERENCE_NUM_THREADS"] = threads
    return core.compile_model(steps.build(), "CPU", chosen)


def load_first_stages(file: Path, threads: int) -> Callable[[Tensor], Tensor]:
    """The part that an image can pass tile by tile: 1 c h w uint8 -> 1 c' h' w' fp32, for any height and width.

    Args:
        file: of an HCT, in int8.
        threads: callers at once; each computes on one.

    Raises:
        ValueError: when the file says of no map that it is this one.
    """
    model = openvino.Core().read_model(file)
    found = _named(model, FIRST_STAGES)
    if found is None:
        raise ValueError(f"{file} names no first stages; export it again with this version, without export.dynamic")
    part = _make([found], model.get_parameters())
    part.reshape([1, part.input().get_partial_shape()[1], -1, -1])
    compiled = _compiled(part, "int8", {"NUM_STREAMS": threads}, threads)
    mine = threading.local()

    def stages(pixels: Tensor) -> Tensor:
        if not hasattr(mine, "request"):
            mine.request = compiled.create_infer_request()
        rows = pixels.permute(0, 2, 3, 1).contiguous()
        return _infer(mine.request, rows)

    return stages


def load(file: Path, description: Mapping[str, Any], threads: int | None, streams: int) -> Callable[[Tensor], Tensor]:
    """1 c h w uint8 -> 1 classes logits."""
    prepared = prepare(file, description, threads, streams=streams)
    mine = threading.local()

    def logits(images: Tensor) -> Tensor:
        if not hasattr(mine, "form"):
            mine.form = prepared()
        request, brought = mine.form
        return _infer(request, brought(images))

    return logits


def prepare(
    file: Path,
    description: Mapping[str, Any],
    threads: int | None = None,
    *,
    streams: int = 1,
    profile: bool = False,
) -> Callable[[], tuple[openvino.InferRequest, Callable[[Tensor], Tensor]]]:
    """Makes for each caller of its own what answers, and what brings images, 1 c h w uint8, into the form that it takes.

    That is their rows, or, where the artifact has one and this machine is fast at it, the map of the stem.

    Raises:
        ValueError: when the artifact's stem is none of its model.
    """
    precision = description["precision"]
    library = stem.fast() if stem.FILE in description["sha256"] else None
    model = openvino.Core().read_model(file)
    options = {"PERF_COUNT": profile} | ({"NUM_STREAMS": streams} if streams > 1 else {})
    if not library:
        compiled = _compiled(model, precision, options, threads)
        return lambda: (compiled.create_infer_request(), lambda images: images.permute(0, 2, 3, 1).contiguous())
    compiled = _compiled(behind_stem(model), precision, options, threads)
    packed = (file.parent / stem.FILE).read_bytes()
    each = max(1, compiled.get_property("INFERENCE_NUM_THREADS") // streams)

    def make() -> tuple[openvino.InferRequest, Callable[[Tensor], Tensor]]:
        run = stem.run_by(library, packed, each)  # into memory of its own
        return compiled.create_infer_request(), lambda images: run(images[0].permute(1, 2, 0).contiguous())[None]

    stem.run_by(library, packed, each)  # what is wrong with it is said at once
    return make


def behind_stem(model: openvino.Model) -> openvino.Model:
    """The part behind the stem, which takes its map, 1 16 h w uint8.

    Raises:
        ValueError: when the model names no stem.
    """
    pool = _named(model, STEM)
    if pool is None:
        raise ValueError(f"the model names no stem, of which {stem.FILE} lies beside it; export it again")
    users = pool.get_target_inputs()
    given = opset13.parameter(pool.get_partial_shape(), np.uint8)
    least, most = np.float32(0), pool.get_node().input_value(0).get_node().input_value(4)  # of the rounding
    values = opset13.fake_quantize(opset13.convert(given, "f32"), least, np.float32(255), least, most, 256)
    for user in users:
        user.replace_source_output(values.output(0))
    return _make(model.outputs, [given])


def _named(model: openvino.Model, name: str) -> Any:
    outputs = (output for operation in model.get_ordered_ops() for output in operation.outputs())
    return next((output for output in outputs if name in output.get_names()), None)


def _infer(request: Any, rows: Tensor) -> Tensor:
    request.infer([openvino.Tensor(rows.numpy(), shared_memory=True)])
    return torch.from_numpy(request.get_output_tensor().data.copy())
