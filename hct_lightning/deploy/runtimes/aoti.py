"""AOTInductor: PyTorch's compiler, ahead of time; the package is native code of this machine."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from hct_lightning.deploy import trust
from hct_lightning.deploy.artifact import Exported, digest, instruction_set
from hct_lightning.deploy.program import MULTIPLE, program
from hct_lightning.deploy.quiet import quiet

FILE = "model.pt2"


def compile_package(exported: ExportedProgram, folder: Path) -> None:
    """Compiles to `folder/model.pt2`. Without freezing, convolutions would not be lowered."""
    with quiet(), torch.no_grad():
        torch._inductor.aoti_compile_and_package(
            exported, package_path=str(folder / FILE), inductor_configs={"freezing": True}
        )
    trust.remember(digest(folder / FILE))


class _Lowered(nn.Module):
    """The network in a lower precision, with logits in fp32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images).float()


def export(network: nn.Module, example: Tensor, folder: Path, *, dynamic: bool, precision: str) -> Exported:
    """Writes `model.pt2`.

    Args:
        network: takes uint8 images.
        example: 1 c h w uint8.
        folder: where the file is written.
        dynamic: open height and width.
        precision: `fp32` or `bf16`, of weights and activations.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    network = copy.deepcopy(network).to(dtype).to(memory_format=torch.channels_last)
    example = example.contiguous(memory_format=torch.channels_last)
    compile_package(program(_Lowered(network), example, dynamic=dynamic), folder)
    return Exported("aoti", precision, FILE, multiple=MULTIPLE)


def load(
    file: Path, description: Mapping[str, Any], threads: int | None, streams: int, *, trusted: bool
) -> Callable[[Tensor], Tensor]:
    """1 c h w uint8 -> 1 classes logits.

    Raises:
        ValueError: when the package is not `trusted`, or was compiled for another machine or version.
    """
    if not trusted:
        raise ValueError(
            f"{file} is machine code that you have not compiled here: it could do anything; make it here with "
            f"task=export, or if you trust who did, {trust.HOW}"
        )
    built = description["instruction_set"]
    if built != instruction_set():
        raise ValueError(
            f"{file} was compiled for {built!r}, this machine has {instruction_set()!r}; export it again here"
        )
    version = description["versions"]["torch"]
    if version != torch.__version__:
        raise ValueError(
            f"{file} was compiled with torch {version}, this is {torch.__version__}; export it again with this version"
        )
    model = torch._inductor.aoti_load_package(str(file))
    # The code was compiled for channels_last memory and would misread any other.
    return lambda images: model(images.contiguous(memory_format=torch.channels_last))
