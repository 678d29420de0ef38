"""ONNX: the format that most other runtimes read; served here by ONNX Runtime."""

import copy
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hct_lightning.deploy.artifact import Exported
from hct_lightning.deploy.extra import extra
from hct_lightning.deploy.program import MULTIPLE, program

with extra("deploy"):
    import onnxruntime

FILE = "model.onnx"


def export(network: nn.Module, example: Tensor, folder: Path, *, dynamic: bool) -> Exported:
    """Writes `model.onnx` in fp32, weights inside.

    Args:
        network: takes uint8 images.
        example: 1 c h w uint8.
        folder: where the file is written.
        dynamic: open height and width.
    """
    network = copy.deepcopy(network).float()
    for name in ("onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.WARNING)  # a line for every constant
    torch.onnx.export(
        program(network, example, dynamic=dynamic),
        f=str(folder / FILE),
        input_names=["pixels"],
        output_names=["logits"],
        external_data=False,
        verbose=False,
    )
    return Exported("onnx", "fp32", FILE, multiple=MULTIPLE)


def load(file: Path, description: Mapping[str, Any], threads: int | None, streams: int) -> Callable[[Tensor], Tensor]:
    """1 c h w uint8 -> 1 classes logits."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(1, threads // streams) if threads else 0
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"], enable_fallback=0)

    def logits(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"pixels": images.contiguous().numpy()})[0])

    return logits
