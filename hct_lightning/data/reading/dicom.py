"""DICOM: images of medicine, as radiologists see them."""

from pathlib import Path
from typing import Any

import numpy as np

from hct_lightning.data.reading.window import Window, to_uint8

_BACKGROUND = 0.05  # of the range: darker than the skin line of a mammogram
_FILLED = 0.02  # of a row or column that the breast reaches
_MARGIN = 0.01  # of the height, kept around the breast


def is_dicom(path: Path | str) -> bool:
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def _dataset(path: Path | str, **options: Any) -> Any:
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
    except ImportError as error:
        raise ValueError("DICOM takes pydicom: pip install 'hct-lightning[data]'") from error
    try:
        return pydicom.dcmread(path, **options)
    except (InvalidDicomError, KeyError, AttributeError) as error:
        raise ValueError(f"not a DICOM file that can be read: {error}") from error


def probe(path: Path | str) -> tuple[int, int, int]:
    """Channels, height and width."""
    data = _dataset(path, stop_before_pixels=True)
    if "Rows" not in data:
        raise ValueError("this DICOM file holds no image")
    return (1 if data.SamplesPerPixel == 1 else 3), data.Rows, data.Columns


def read(path: Path | str, channels: int, window: Window | None, *, breast: bool) -> np.ndarray:
    """h w c uint8 of a single frame.

    Args:
        path: the file.
        channels: 1 or 3; grey is repeated, colour made grey.
        window: of the modality's values (Hounsfield units, say) instead of the file's own.
        breast: flips a mammogram so that the breast lies on the left, and crops to it.
    """
    from pydicom.pixels import apply_color_lut, apply_rescale, apply_voi_lut, convert_color_space

    data = _dataset(path)
    if data.get("NumberOfFrames", 1) not in (None, 1):
        raise ValueError(f"it holds {data.NumberOfFrames} frames; export the one to classify")
    try:
        values = data.pixel_array
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        raise ValueError(f"its pixels can't be decoded: {error}") from error
    kind = data.PhotometricInterpretation
    if kind.startswith("MONOCHROME"):
        values = apply_rescale(values, data).astype(np.float64)
        if window is None:
            values = apply_voi_lut(values, data, index=0)
            window = _range(values)
        pixels = to_uint8(values.astype(np.float32), window)
        if kind == "MONOCHROME1":  # there, small is bright
            pixels = 255 - pixels
        if breast:
            pixels = crop_to_breast(pixels)
        pixels = pixels[..., None]
    else:
        if kind == "PALETTE COLOR":
            values = apply_color_lut(values, data)
        elif kind.startswith("YBR"):
            values = convert_color_space(values, kind, "RGB")
        pixels = values if values.dtype == np.uint8 else to_uint8(values, window)
    if pixels.shape[2] == channels:
        return np.ascontiguousarray(pixels)
    if channels == 3:
        return pixels.repeat(3, axis=2)
    grey = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.rint(grey).astype(np.uint8)[..., None]


def _range(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return low, max(high, low + 1e-6)


def crop_to_breast(pixels: np.ndarray) -> np.ndarray:
    """h w uint8, bright on dark -> the part that holds the breast, which lies on the left."""
    inside = pixels > _BACKGROUND * 255
    half = pixels.shape[1] // 2
    if inside[:, half:].sum() > inside[:, :half].sum():
        pixels, inside = pixels[:, ::-1], inside[:, ::-1]
    top, bottom = _heaviest_run(inside.mean(axis=1))
    left, right = _heaviest_run(inside[top:bottom].mean(axis=0))
    if top == bottom or left == right:
        return pixels
    margin = round(_MARGIN * pixels.shape[0])
    return np.ascontiguousarray(pixels[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin])


def _heaviest_run(share: np.ndarray) -> tuple[int, int]:
    """Start and end of the run of rows or columns with the most in them: the labels stand apart."""
    bounds = np.flatnonzero(np.diff(share > _FILLED, prepend=False, append=False))
    runs = bounds.reshape(-1, 2).tolist()
    start, end = max(runs, key=lambda run: share[slice(*run)].sum(), default=(0, 0))
    return start, end
