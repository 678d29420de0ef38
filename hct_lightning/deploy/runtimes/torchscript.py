"""TorchScript: traced, frozen, channels_last inside. Exports use torch.jit, which is deprecated, in this file alone."""

import copy
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hct_lightning.deploy import trust
from hct_lightning.deploy.artifact import Exported, digest, instruction_set
from hct_lightning.deploy.checked.archive import known_parts

log = logging.getLogger(__name__)

FILE = "model.ts"
VNNI = "avx512_vnni"  # with it PyTorch makes int8 layers for 8 bits of their inputs, without it for 7


class _ChannelsLast(nn.Module):
    """The network on channels_last memory, whatever the caller's images have."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.contiguous(memory_format=torch.channels_last)).float()


def export(network: nn.Module, example: Tensor, folder: Path, *, dynamic: bool) -> Exported:
    """Traces `network` in fp32; the file takes any height and width from 128, `dynamic` or not.

    Args:
        network: takes uint8 images.
        example: n c h w uint8.
        folder: where `model.ts` is written.
        dynamic: changes only what the artifact promises; the trace is the same.
    """
    network = copy.deepcopy(network).eval().float().to(memory_format=torch.channels_last)
    save(network, example, folder)
    return Exported("torchscript", "fp32", FILE, batch=None)


def save(network: nn.Module, example: Tensor, folder: Path) -> None:
    """Writes `network`, traced and frozen, to `folder/model.ts`, and remembers the file as this user's own."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        traced = torch.jit.trace(_ChannelsLast(network).eval(), example, check_trace=False)
        torch.jit.save(torch.jit.freeze(traced), folder / FILE)
    trust.remember(digest(folder / FILE))
    try:
        known_parts(folder / FILE)
    except ValueError as error:
        log.warning("this artifact runs elsewhere only where it is trusted, %s: %s", trust.HOW, error.__cause__)


def load(
    file: Path, description: Mapping[str, Any], threads: int | None, streams: int, *, trusted: bool
) -> Callable[[Tensor], Tensor]:
    """n c h w uint8 -> n classes logits; errors as `read`."""
    # Without this the second call of each new input shape compiles, for a second or more.
    torch.jit.set_fusion_strategy([("STATIC", 0)])
    module = read(file, trusted=trusted)
    made_with = description["instruction_set"].split()
    if VNNI in made_with and VNNI not in instruction_set().split() and _is_static_int8(module):
        log.warning(
            "%s was made on a CPU with %s, which this one has not: sums of its int8 layers may saturate, and answers be "
            "wrong; export it again on this machine",
            *(file, VNNI),
        )
    return module


def _is_static_int8(module: torch.jit.ScriptModule) -> bool:
    """Dynamic layers choose the bits of their inputs as they come, for the CPU that they are on."""
    kinds = [node.kind() for node in module.inlined_graph.nodes()]
    return any(kind.startswith("quantized::") and not kind.endswith("_dynamic") for kind in kinds)


def read(file: Path, *, trusted: bool = False) -> torch.jit.ScriptModule:
    """The program of a file, which is a stranger's unless it is `trusted`.

    Raises:
        ValueError: when a stranger's names what no known network needs.
    """
    archive = file if trusted else known_parts(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        return torch.jit.load(archive, map_location="cpu").eval()
