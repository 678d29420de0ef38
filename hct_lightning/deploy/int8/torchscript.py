"""TorchScript in int8, as in the paper. Exports use torch.ao.quantization, which is deprecated, in this file alone."""

import copy
import warnings
from collections.abc import Iterable, Set
from pathlib import Path
from typing import Any, cast

import timm.layers
import torch
import torch.ao.quantization as ao
import torch.nn.functional as F
from torch import Tensor, nn
from torch.ao.nn.intrinsic import ConvReLU2d
from torch.ao.nn.quantized import Conv2d

from hct_lightning.deploy.artifact import Exported
from hct_lightning.deploy.int8.folding import fold_batch_norm, fold_first_activation, fold_normalisation
from hct_lightning.deploy.int8.layers import engine, has_vnni_for_eager, layers
from hct_lightning.deploy.int8.sensitivity import float_layers
from hct_lightning.deploy.runtimes import torchscript
from hct_lightning.models.hct import HCT, ConvBlock
from hct_lightning.models.pixels import FromPixels

STEM = "network.stem.conv"


class _RawPixels(nn.Module):
    """HCT whose stem is int8 and computes on the pixels as they are: b c h w uint8 -> b classes logits.

    torch has one zero point for all channels, so each channel is padded with its own first; then 0 is the zero point.

    Args:
        network: folded by `fold_normalisation`; taken apart.
    """

    border: Tensor

    def __init__(self, network: FromPixels) -> None:
        super().__init__()
        self.network = cast(HCT, network.network)
        self.register_buffer("border", (-network.offset).to(torch.uint8))
        stem = self.network.stem
        self.pad, stem.conv.padding = 3, (0, 0)
        if isinstance(stem.pool, nn.Sequential):  # the activation that the fold put there
            stem.set_submodule("conv", ConvReLU2d(stem.conv, stem.pool[0]))
        stem.pool = nn.Sequential(_Pool(), ao.DeQuantStub())
        self.quantizes = False

    def forward(self, pixels: Tensor) -> Tensor:
        b, c, h, w = pixels.shape
        height, width = h + 2 * self.pad, w + 2 * self.pad
        # A row at a time, for filling pixel by pixel can't be vectorised.
        padded = self.border.repeat(width).expand(b, height, -1).contiguous().view(b, height, width, c)
        padded[:, self.pad : -self.pad, self.pad : -self.pad] = pixels.permute(0, 2, 3, 1)
        padded = padded.permute(0, 3, 1, 2)
        if self.quantizes:
            return self.network(torch._make_per_tensor_quantized_tensor(padded, 1.0, 0))
        return self.network(padded.float() - self.border.view(1, -1, 1, 1))

    def quantize(self) -> None:
        """To be called once the stem is int8: from now on it takes the pixels, without the mean subtracted.

        Its bias does that, by the weights as they were rounded. By those before rounding, what each is off would be
        multiplied by the mean, 100 grey levels or so, and shift whole channels.
        """
        conv = cast(Conv2d, self.network.stem.conv)
        weight = conv.weight()
        shift = torch.einsum("oihw,i->o", weight.dequantize(), self.border.float())
        conv.set_weight_bias(weight, conv.bias() - shift)
        self.quantizes = True


class _Pool(nn.Module):
    """3x3 max-pool with stride 2: of int8 as maxima of rows, then of columns.

    torch's own takes more than twice as long on int8, and longer than on floats.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_quantized:
            return F.max_pool2d(x, 3, stride=2)
        rows, columns = ((side - 1) // 2 * 2 for side in x.shape[2:])
        y = x.int_repr()
        y = torch.maximum(torch.maximum(y[:, :, :rows:2], y[:, :, 1 : rows + 1 : 2]), y[:, :, 2 : rows + 1 : 2])
        y = torch.maximum(torch.maximum(y[..., :columns:2], y[..., 1 : columns + 1 : 2]), y[..., 2 : columns + 1 : 2])
        return torch._make_per_tensor_quantized_tensor(y, x.q_scale(), x.q_zero_point())


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
    the layers stays fp32, and so does the attention. From the pixels to the first block all is int8.

    Args:
        network: takes uint8 images.
        example: n c h w uint8.
        folder: where `model.ts` is written.
        dynamic: changes only what the artifact promises.
        calibration: uint8 batches.
        percent: share of the layers that become int8, the least sensitive ones.
    """
    chosen = layers(network).keys() - float_layers(network, calibration, percent)
    torchscript.save(quantized(network, chosen, calibration), example, folder)
    return _exported(folder)


def quantized(network: nn.Module, chosen: Set[str], calibration: Iterable[Tensor]) -> nn.Module:
    """A copy with the layers that are `chosen`, by name, in int8."""
    network = fold_batch_norm(network).to(memory_format=torch.channels_last)
    for name, block in network.named_modules():
        if isinstance(block, ConvBlock) and f"{name}.conv1" in chosen:
            block.conv1, block.act2 = ConvReLU2d(block.conv1, block.act2), nn.Identity()
    # Without VNNI sums of products with pixels of 8 bits overflow: there the stem's input is quantized to 7.
    if STEM in chosen and has_vnni_for_eager() and fold_normalisation(network):
        fold_first_activation(network)
        network = _RawPixels(cast(FromPixels, network))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # deprecated
        qconfig = ao.get_default_qconfig(engine(torch.backends.quantized.supported_engines))
        for name in chosen:
            raw = name == STEM and isinstance(network, _RawPixels)
            name = "network.stem" if raw else name
            layer = network.get_submodule(name)
            if isinstance(layer, timm.layers.Linear):  # the same by another name; torch knows its own classes alone
                cast(Any, layer).__class__ = nn.Linear
            if not raw and type(layer) not in (nn.Conv2d, nn.Linear, ConvReLU2d):
                continue
            wrapped = layer if raw else ao.QuantWrapper(layer)
            setattr(wrapped, "qconfig", qconfig)  # noqa: B010 -- a module knows no attribute of that type
            network.set_submodule(name, wrapped)
        ao.prepare(network, inplace=True)
        for images in calibration:
            network(images)
        ao.convert(network, inplace=True)
        if isinstance(network, _RawPixels):
            network.quantize()
    return network


def export_dynamic(network: nn.Module, example: Tensor, folder: Path, *, dynamic: bool) -> Exported:
    """Linears in int8, activations quantized as they come: no calibration, convolutions stay fp32."""
    network = copy.deepcopy(network).eval().float().to(memory_format=torch.channels_last)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated
        network = ao.quantize_dynamic(network, {nn.Linear}, dtype=torch.qint8)
    torchscript.save(network, example, folder)
    return _exported(folder)


def _exported(folder: Path) -> Exported:
    graph = torchscript.read(folder / torchscript.FILE, trusted=True).inlined_graph
    kinds = [node.kind() for node in graph.nodes()]
    int8 = {
        "convolutions": sum(kind.startswith("quantized::conv2d") for kind in kinds),
        "linears": sum(kind.startswith("quantized::linear") for kind in kinds),
    }
    return Exported("torchscript", "int8", torchscript.FILE, batch=None, int8=int8)
