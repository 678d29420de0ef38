"""TorchScript in int8, as in the paper. Exports use torch.ao.quantization, which is deprecated, in this file alone."""

import copy
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.ao.quantization as ao
from torch import Tensor, nn
from torch.ao.nn.intrinsic import ConvReLU2d

from hct_lightning.deploy.artifact import Exported
from hct_lightning.deploy.int8.folding import fold_batch_norm
from hct_lightning.deploy.int8.layers import engine, layers
from hct_lightning.deploy.int8.sensitivity import float_layers
from hct_lightning.deploy.runtimes import torchscript
from hct_lightning.models.hct import ConvBlock


def export_static(
    network: nn.Module,
    example: Tensor,
    folder: Path,
    *,
    dynamic: bool,
    calibration: Iterable[Tensor],
    percent: float,
) -> Exported:
    """Convolutions and linears in int8, ranges of activations seen in `calibration`.

    Activations are affine per tensor, weights symmetric per output channel; everything between
    the layers stays fp32, and so does the attention.

    Args:
        network: takes uint8 images.
        example: n c h w uint8.
        folder: where `model.ts` is written.
        dynamic: changes only what the artifact promises.
        calibration: uint8 batches.
        percent: share of the layers that become int8, the least sensitive ones.
    """
    network = fold_batch_norm(network).to(memory_format=torch.channels_last)
    chosen = layers(network).keys() - float_layers(network, calibration, percent)
    for name, block in network.named_modules():
        if isinstance(block, ConvBlock) and f"{name}.conv1" in chosen:
            block.conv1, block.act2 = ConvReLU2d(block.conv1, block.act2), nn.Identity()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # deprecated
        qconfig = ao.get_default_qconfig(engine(torch.backends.quantized.supported_engines))
        for name in chosen:
            wrapped = ao.QuantWrapper(network.get_submodule(name))
            setattr(wrapped, "qconfig", qconfig)  # noqa: B010 -- a module knows no attribute of that type
            network.set_submodule(name, wrapped)
        ao.prepare(network, inplace=True)
        for images in calibration:
            network(images)
        ao.convert(network, inplace=True)
    torchscript.save(network, example, folder)
    return _exported(folder)


def export_dynamic(network: nn.Module, example: Tensor, folder: Path, *, dynamic: bool) -> Exported:
    """Linears in int8, activations quantized as they come: no calibration, convolutions stay fp32."""
    network = copy.deepcopy(network).eval().float().to(memory_format=torch.channels_last)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated
        network = ao.quantize_dynamic(network, {nn.Linear}, dtype=torch.qint8)
    torchscript.save(network, example, folder)
    return _exported(folder)


def _exported(folder: Path) -> Exported:
    graph = torchscript.read(folder / torchscript.FILE).inlined_graph
    kinds = [node.kind() for node in graph.nodes()]
    int8 = {
        "convolutions": sum(kind.startswith("quantized::conv2d") for kind in kinds),
        "linears": sum(kind.startswith("quantized::linear") for kind in kinds),
    }
    return Exported("torchscript", "int8", torchscript.FILE, batch=None, int8=int8)
