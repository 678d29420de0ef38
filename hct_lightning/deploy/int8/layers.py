"""Which layers can be int8, on which CPUs, and how much noise this makes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def layers(network: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """The convolutions and linears of `network`, by name: what can be int8."""
    return {name: module for name, module in network.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))}


def has_vnni() -> bool:
    """Whether compiled layers sum products of 8-bit numbers without overflow here; elsewhere activations get 7 bits."""
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_vnni") or has.get("avx_vnni"))


def has_vnni_for_eager() -> bool:
    """Whether eager layers do: PyTorch gives them oneDNN by AVX-512's VNNI alone, and else FBGEMM, which overflows."""
    return bool(torch.cpu.get_capabilities().get("avx512_vnni"))


def engine(supported: Sequence[str]) -> str:
    """For which of PyTorch's engines eager layers are made: qnnpack on ARM, Apple's machines for one.

    Args:
        supported: `torch.backends.quantized.supported_engines`.
    """
    if "x86" not in supported:
        return "qnnpack"
    return "onednn" if has_vnni_for_eager() else "x86"


def sqnr_db(exact: Tensor, quantized: Tensor) -> float:
    """Signal to quantization noise: 20 log10(|exact| / |exact - quantized|)."""
    noise = (exact - quantized).norm().clamp_min(torch.finfo(torch.float32).tiny)
    return (20 * torch.log10(exact.norm() / noise)).item()
