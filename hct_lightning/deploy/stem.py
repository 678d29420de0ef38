"""HCT's stem in int8 by a program of our own, `cpp/stem.cpp`: from pixels to the rounded map behind the max-pool.

The program is compiled when it is first needed, in two seconds, and kept in the user's cache. Without a compiler, and on
CPUs where it is not faster, the runtime's own operators do the same.
"""

import ctypes
import functools
import math
from collections.abc import Callable
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor

from hct_lightning.machine.compiled import compiled_library

FILE = "stem.bin"  # of an artifact; cpp/stem.cpp tells its form
CHANNELS = (1, 3)  # of images that it takes
OUT = 16  # channels of the map
LEAST = 5  # pixels a side that make one of the map
LINE = 64  # bytes of the cache
WAYS = ("portable", "avx2", "vnni", "amx")  # of the program, in its order


def pack(weight: np.ndarray, scale: np.ndarray, shift: np.ndarray, zero_points: np.ndarray) -> bytes:
    """The stem as the program reads it: its map is round(scale * max-pool(conv(pixels - zero_points)) + shift).

    Args:
        weight: int8, 16 c 7 7; c is 1 or 3.
        scale: of each output channel.
        shift: likewise.
        zero_points: c, of 0 to 255.
    """
    channels = weight.shape[1]
    rows = np.zeros((7, 8 * channels, OUT), np.int8)  # a row of the kernel, padded from 7 to 8 pixels
    rows[:, : 7 * channels] = weight.transpose(2, 3, 1, 0).reshape(7, 7 * channels, OUT)
    fours = rows.reshape(7, 2 * channels, 4, OUT).transpose(0, 1, 3, 2)
    zeros = np.zeros(-channels % 4 + channels, np.uint8)
    zeros[:channels] = zero_points
    parts = (np.int32(channels), scale.astype("<f4"), shift.astype("<f4"), zeros, fours)
    return b"HCTSTEM1" + b"".join(part.tobytes() for part in parts)


def fast() -> ctypes.CDLL | None:
    """The program, where it is faster than the runtime's own operators."""
    library = compiled()
    return library if library and library.hct_stem_way() else None


def run_by(library: ctypes.CDLL, stem: bytes, threads: int, *, way: int | None = None) -> Callable[[Tensor], Tensor]:
    """`stem` run by the library.

    What it gives is the same memory in each call for images of one size.

    Args:
        library: see `compiled`.
        stem: see `pack`.
        threads: that run it.
        way: an index of `WAYS`, all of which give the same bytes; None for the fastest that this machine has.

    Raises:
        ValueError: when these bytes are no stem.
    """
    way = library.hct_stem_way() if way is None else way
    channels = library.hct_stem_channels(stem, len(stem))
    if not channels:
        raise ValueError(f"{FILE} of {len(stem)} bytes is no stem of this version; export it again")
    found = torch.empty((0, 0, OUT), dtype=torch.uint8)

    def run(pixels: Tensor) -> Tensor:
        nonlocal found
        height, width, given = pixels.shape
        if min(height, width) < LEAST:
            raise ValueError(
                f"an image of {width}x{height} pixels is too small for the stem, which takes {LEAST} a side"
            )
        if given != channels or pixels.dtype != torch.uint8 or not pixels.is_contiguous():
            raise ValueError(f"the stem takes uint8 h w {channels}, not {pixels.dtype} {tuple(pixels.shape)}")
        shape = library.hct_stem_side(height), library.hct_stem_side(width), OUT
        if found.shape != shape:
            # NumPy asks Linux for huge pages where it is large: their addresses are found faster.
            memory = np.empty(math.prod(shape) + LINE, np.uint8)
            begin = -memory.ctypes.data % LINE
            found = torch.from_numpy(memory[begin : begin + math.prod(shape)]).view(shape)
        library.hct_stem(stem, pixels.data_ptr(), height, width, found.data_ptr(), threads, way)
        return found

    return run


@functools.cache
def compiled() -> ctypes.CDLL | None:
    """The program as a library; None where it can't be made, and the log then says why."""
    folder, slower = files("hct_lightning.deploy") / "cpp", "int8 artifacts of OpenVINO run slower than they could"
    if (
        library := compiled_library(
            folder, "stem.cpp", ("stem.h", "stem_ways.h", "stem_avx2.h", "stem_avx512.h"), slower
        )
    ) is None:
        return None
    library.hct_stem_way.restype = ctypes.c_int
    library.hct_stem_channels.argtypes = (ctypes.c_char_p, ctypes.c_size_t)
    number, place = ctypes.c_int, ctypes.c_void_p
    library.hct_stem.argtypes = (ctypes.c_char_p, place, number, number, place, number, number)
    library.hct_stem.restype = None
    return library
