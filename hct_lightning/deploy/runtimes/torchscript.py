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
from hct_lightning.deploy.artifact import Exported, digest
from hct_lightning.deploy.checked.archive import known_parts

log = logging.getLogger(__name__)

FILE = "model.ts"


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
    return read(file, trusted=trusted)


def read(file: Path, *, trusted: bool = False) -> torch.jit.ScriptModule:
    """The program of a file, which is a stranger's unless it is `trusted`.

    Raises:
        ValueError: when a stranger's names what no known network needs.
    """
    archive = file if trusted else known_parts(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        return torch.jit.load(archive, map_location="cpu").eval()
