"""DICOM: images of medicine, as radiologists see them."""

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from hct_lightning.data.reading.channels import to_channels
from hct_lightning.data.reading.window import Window, to_uint8

_BACKGROUND = 0.05  # of the range: darker than the skin line of a mammogram
_FILLED = 0.02  # of a row or column that the breast reaches
_MARGIN = 0.01  # of the height, kept around the breast
_NEEDED = ("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation")
_KINDS = {"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB"}  # and YBR_...


def is_dicom(path: Path | str) -> bool:
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def _dataset(path: Path | str, **options: Any) -> Any:
    try:
        from pydicom.errors import InvalidDicomError
        from pydicom.filereader import dcmread, read_file_meta_info
    except ImportError as error:
        raise ValueError("DICOM takes pydicom: pip install 'hct-lightning[data]'") from error
    # What is wrong with a file is said once, by the error that names it.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module="pydicom")
    try:
        syntax = read_file_meta_info(path).get("TransferSyntaxUID")
        if syntax is not None and syntax.is_deflated:  # its header too: a small file may fill the memory
            raise ValueError("it is a deflated DICOM file; save it with another transfer syntax")
        data = dcmread(path, **options)
    except (InvalidDicomError, KeyError, AttributeError) as error:
        raise ValueError(f"not a DICOM file that can be read: {error}") from error
    if missing := [name for name in _NEEDED if name not in data]:
        raise ValueError(f"this DICOM file holds no image: it has no {', '.join(missing)}")
    return data


def probe(path: Path | str) -> tuple[int, int, int]:
    """Channels, height and width."""
    data = _dataset(path, stop_before_pixels=True)
    return (1 if data.PhotometricInterpretation.startswith("MONOCHROME") else 3), data.Rows, data.Columns


def read(path: Path | str, channels: int, window: Window | None, *, breast: bool) -> np.ndarray:
    """h w c uint8 of a single frame.

    Args:
        path: the file.
        channels: 1 or 3; grey is repeated, colour made grey.
        window: of the modality's values (Hounsfield units, say) instead of the file's own.
        breast: flips a mammogram so that the breast lies on the left, and crops to it.
    """
    data = _dataset(path)
    if data.get("NumberOfFrames", 1) not in (None, 1):
        raise ValueError(f"it holds {data.NumberOfFrames} frames; export the one to classify")
    kind = data.PhotometricInterpretation
    values = _values(data, kind)
    if kind.startswith("MONOCHROME"):
        pixels = _grey(values, data, window)
        if breast:
            pixels = crop_to_breast(pixels)
        pixels = pixels[..., None]
    else:
        pixels = values if values.dtype == np.uint8 else to_uint8(values, window)
    return to_channels(pixels, channels, f"DICOM ({kind})")


def _values(data: Any, kind: str) -> np.ndarray:
    """h w or h w 3: grey as it is stored, colours as RGB."""
    from pydicom.pixels import apply_color_lut, pixel_array

    if kind not in _KINDS and not kind.startswith("YBR"):
        raise ValueError(f"its pixels are {kind}; save it as MONOCHROME2 or RGB")
    try:
        values = pixel_array(data, allow_excess_frames=False)  # YBR becomes RGB there
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        raise ValueError(f"its pixels can't be decoded: {error}") from error
    if values.ndim != (2 if kind in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR") else 3):
        raise ValueError(f"it says {kind}, and has {data.SamplesPerPixel} values a pixel")
    return apply_color_lut(values, data) if kind == "PALETTE COLOR" else values


def _grey(values: np.ndarray, data: Any, window: Window | None) -> np.ndarray:
    """h w of what is stored -> h w uint8 as a radiologist sees it."""
    from pydicom.pixels import apply_rescale, apply_voi_lut

    values = apply_rescale(values, data).astype(np.float64)
    if window is None:
        values = apply_voi_lut(values, data, index=0)
        window = _range(values)
    pixels = to_uint8(values.astype(np.float32), window)
    return 255 - pixels if data.PhotometricInterpretation == "MONOCHROME1" else pixels  # there, small is bright


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
