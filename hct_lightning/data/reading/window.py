"""From 16-bit and float values to uint8."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Window = tuple[float, float] | tuple[tuple[float, float], ...]  # (low, high), or one for each band


def check_window(window: Sequence[Any]) -> Window:
    """The window as tuples.

    Raises:
        ValueError: unless it is [low, high] with low < high, or a list of such pairs.
    """
    try:
        by_band = np.ndim(window[0]) == 1
        pairs = [tuple(pair) for pair in window] if by_band else [tuple(window)]
        right = all(math.isfinite(low) and math.isfinite(high) and low < high for low, high in pairs)
    except (TypeError, ValueError, IndexError):
        right = False
    if not right:
        raise ValueError(f"data.window={window}: give [low, high] with low < high, or one for each band")
    return tuple(pairs) if by_band else pairs[0]


def range_of(dtype: np.dtype) -> tuple[int, int]:
    """What becomes 0..255 of integers of this type where no window is given."""
    return (0, 255) if dtype.itemsize == 1 else (0, 65535)


def _default_window(values: np.ndarray) -> Window:
    """That of integers which may go beyond it. Negative ones alone may be a mark of no data, and become 0."""
    low, high = int(values.min()), int(values.max())
    lowest, highest = range_of(values.dtype)
    if high > highest or (values.dtype == np.int8 and low < lowest):
        raise ValueError(
            f"it holds {values.dtype} of {low}..{high}, and {lowest}..{highest} is read: give data.window=[{low},{high}]"
        )
    return lowest, highest


def to_uint8(values: np.ndarray, window: Window | None) -> np.ndarray:
    """h w or h w c of any numbers -> uint8, `window` becoming 0..255, rounded.

    By default 0..65535 for integers, and for floats the image's own finite range. Bytes stay as they are.
    NaN becomes the lower end.

    Raises:
        ValueError: when the image holds no finite value, the window is for another number of bands, or there is none
            and integers go beyond 65535, or signed bytes below 0.
    """
    if values.dtype == np.uint8:
        return values
    if window is None and values.dtype.kind == "f":
        finite = values[np.isfinite(values)]
        if finite.size == 0:
            raise ValueError("it holds no finite value")
        window = float(finite.min()), float(finite.max())
    elif window is None and (values.dtype == np.int8 or values.dtype.itemsize > 2):
        window = _default_window(values)
    low, high = np.asarray(window or (0, 65535), dtype=np.float32).T
    bands = values.shape[2] if values.ndim == 3 else 1
    if low.ndim and bands != len(low):
        raise ValueError(f"data.window is for {len(low)} bands, the image has {bands}")
    inside = values.astype(np.float32)
    np.copyto(inside, np.broadcast_to(low, inside.shape), where=np.isnan(inside))
    np.clip(inside, low, high, out=inside)
    inside -= low
    inside *= 255 / np.maximum(high - low, 1e-12)
    return np.rint(inside, out=inside).astype(np.uint8)
