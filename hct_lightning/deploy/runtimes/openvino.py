"""OpenVINO: the fast runtime on x86."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from hct_lightning.deploy.artifact import Exported
from hct_lightning.deploy.extra import extra
from hct_lightning.deploy.program import MULTIPLE, program

with extra("deploy"):
    import openvino
    from openvino.preprocess import PrePostProcessor

FILE = "model.xml"  # the weights are in model.bin


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


def save(model: openvino.Model, folder: Path) -> None:
    """Writes `model.xml` and `model.bin`, weights as they are."""
    openvino.save_model(model, folder / FILE, compress_to_fp16=False)


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
    save(convert(program(network, example, dynamic=dynamic), example, dynamic=dynamic), folder)
    return Exported("openvino", precision, FILE, multiple=MULTIPLE)


def compile_model(
    file: Path, precision: str, threads: int | None = None, *, profile: bool = False
) -> openvino.CompiledModel:
    """Compiles the file for pixels in the order NHWC.

    The file takes NCHW, as the file of every artifact does, but decoded images lie in memory as NHWC: so no
    image is copied. Where the CPU does not compute in bf16, fp32 takes its place, which is faster there.
    """
    core = openvino.Core()
    steps = PrePostProcessor(core.read_model(file))
    steps.input().tensor().set_layout(openvino.Layout("NHWC"))
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    bf16 = precision != "fp32" and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    options: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
        "PERF_COUNT": profile,
    }
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    return core.compile_model(steps.build(), "CPU", options)


def load(file: Path, description: Mapping[str, Any], threads: int | None) -> Callable[[Tensor], Tensor]:
    """1 c h w uint8 -> 1 classes logits."""
    request = compile_model(file, description["precision"], threads).create_infer_request()

    def logits(images: Tensor) -> Tensor:
        pixels = images.permute(0, 2, 3, 1).contiguous()
        request.infer([openvino.Tensor(pixels.numpy(), shared_memory=True)])
        return torch.from_numpy(request.get_output_tensor().data.copy())

    return logits
