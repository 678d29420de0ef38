"""HCT's stem in fp32 on the CPU, from pixels, by a program of our own: `cpp/fast_stem.cpp`.

Between forward and backward pass it keeps the pixels and a byte for each value of the map. The program is compiled when
it is first needed, in seconds, and kept in the user's cache. Without a compiler, on CPUs without AVX2, on other devices
and in other precisions the network's own stem does the same.
"""

import ctypes
import functools
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

from hct_lightning.machine.compiled import compiled_library
from hct_lightning.models import HCT, FromPixels
from hct_lightning.models.hct import WIDTHS, check_size

CHANNELS = (1, 3)  # of images that it takes


def with_fast_stem(network: FromPixels, device_type: str) -> FromPixels:
    """The network, its stem by the program where it has one that this takes, and computes on the CPU."""
    takes = isinstance(network.network, HCT) and len(network.scale) in CHANNELS
    if takes and device_type == "cpu" and compiled():
        network.fast_stem = fast_stem
    return network


def make_fast(network: FromPixels, device_type: str, *, compiles: bool) -> None:
    """Has torch compile the network, or gives it the fast stem, into which torch.compile does not look."""
    if compiles:
        network.compile(dynamic=False)
    else:
        with_fast_stem(network, device_type)


def fast_stem(pixels: Tensor, weight: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """The stem of normalised images.

    Args:
        pixels: b c h w uint8.
        weight: of the convolution, 16 c 7 7.
        scale: of each channel, by which its pixels are multiplied.
        offset: of each channel, which is then added.

    Returns:
        b 16 ~h/4 ~w/4, channels_last.
    """
    return _stem(pixels, weight, scale, offset)[0]


@torch.library.custom_op("hct::stem", mutates_args=(), device_types="cpu")
def _stem(pixels: Tensor, weight: Tensor, scale: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """The map, and for each of its values which of 3x3 outputs of the convolution it is, uint8."""
    library, images, statistics = _prepare(pixels, scale, offset)
    if weight.dtype != torch.float32 or weight.shape != (WIDTHS[0], pixels.shape[1], 7, 7):
        raise ValueError(f"weight is {weight.dtype} {tuple(weight.shape)}, of images {tuple(pixels.shape)}")
    weight = weight.contiguous()
    made, places = _outputs(pixels, weight)
    out = made.data_ptr(), places.data_ptr()
    library.hct_fast_stem(
        *_described(images), *_addresses(statistics), weight.data_ptr(), *out, torch.get_num_threads()
    )
    return made, places


@_stem.register_fake
def _outputs(pixels: Tensor, weight: Tensor, scale: Any = None, offset: Any = None) -> tuple[Tensor, Tensor]:
    shape = len(pixels), len(weight), *(((side - 1) // 2 + 1 - 3) // 2 + 1 for side in pixels.shape[2:])
    made = torch.empty(shape, dtype=weight.dtype, device=weight.device, memory_format=torch.channels_last)
    return made, torch.empty_like(made, dtype=torch.uint8)


@torch.library.custom_op("hct::stem_gradient", mutates_args=(), device_types="cpu")
def _gradient(pixels: Tensor, gradient: Tensor, places: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """Of the weights, 16 c 7 7."""
    library, images, statistics = _prepare(pixels, scale, offset)
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    found = _like_weight(pixels, gradient)
    given = gradient.data_ptr(), places.data_ptr()
    out = found.data_ptr(), torch.get_num_threads()
    library.hct_fast_stem_gradient(*_described(images), *_addresses(statistics), *given, *out)
    return found


@_gradient.register_fake
def _like_weight(pixels: Tensor, gradient: Tensor, places: Any = None, scale: Any = None, offset: Any = None) -> Tensor:
    return gradient.new_empty((WIDTHS[0], pixels.shape[1], 7, 7))


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    pixels, _, scale, offset = inputs
    ctx.set_materialize_grads(False)  # places have none
    ctx.save_for_backward(pixels, output[1], scale, offset)


def _backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[None, Tensor, None, None]:
    pixels, places, scale, offset = ctx.saved_tensors
    return None, _gradient(pixels, gradient, places, scale, offset), None, None


_stem.register_autograd(_backward, setup_context=_keep)


def _prepare(pixels: Tensor, scale: Tensor, offset: Tensor) -> tuple[ctypes.CDLL, Tensor, tuple[Tensor, Tensor]]:
    """The program, the images interleaved, and their statistics.

    Raises:
        ValueError: for what the program does not take.
    """
    library, channels = compiled(), pixels.shape[1]
    if library is None:
        raise ValueError("HCT's fast stem can't be made here; with_fast_stem leaves it out then")
    check_size(*pixels.shape[2:])
    if pixels.dtype != torch.uint8 or channels not in CHANNELS:
        raise ValueError(f"images are {pixels.dtype} {tuple(pixels.shape)}; give uint8 b c h w, c of {CHANNELS}")
    for values in (scale, offset):
        if values.dtype != torch.float32 or values.shape != (channels,):
            raise ValueError(f"scale and offset are {values.dtype} {tuple(values.shape)}; give {channels} floats each")
    return library, pixels.permute(0, 2, 3, 1).contiguous(), (scale.contiguous(), offset.contiguous())


def _described(images: Tensor) -> tuple[int, ...]:
    return images.data_ptr(), *images.shape


def _addresses(tensors: tuple[Tensor, ...]) -> tuple[int, ...]:
    return tuple(tensor.data_ptr() for tensor in tensors)


@functools.cache
def compiled() -> ctypes.CDLL | None:
    """The program, where this CPU can run it; None where it can't be made, and the log then says why."""
    folder, slower = files("hct_lightning.training") / "cpp", "HCT's stem is trained more slowly in fp32 than it could"
    library = compiled_library(folder, "fast_stem.cpp", (), slower)
    if library is None or not library.hct_fast_stem_runs():
        return None
    number, place = ctypes.c_int, ctypes.c_void_p
    images = place, *4 * (number,), place, place
    library.hct_fast_stem.argtypes = (*images, place, place, place, number)
    library.hct_fast_stem_gradient.argtypes = (*images, place, place, place, number)
    library.hct_fast_stem.restype = library.hct_fast_stem_gradient.restype = None
    return library
