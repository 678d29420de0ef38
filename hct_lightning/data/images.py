"""Reading image files as uint8, whatever they are stored as."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
GREY_MODES = {"1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}


class UnreadableImageError(ValueError):
    """An image file that can't be read; the message names the file and the reason."""


def is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


@contextmanager
def _open(path: Path | str, max_pixels: int) -> Iterator[Image.Image]:
    # Pillow's own limit is a warning and global; ours is an error and an option.
    Image.MAX_IMAGE_PIXELS = None
    try:
        # Not by name: Pillow would map uncompressed files into memory, and scramble turned TIFFs.
        with open(path, "rb") as file, Image.open(file) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise UnreadableImageError(
                    f"{path}: {width}x{height} pixels are more than data.max_pixels={max_pixels}; "
                    "raise it if the image is genuine"
                )
            yield image
    except UnreadableImageError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise _unreadable(path, error) from error


def probe(path: Path | str, *, max_pixels: int) -> tuple[int, int, int]:
    """Channels (1 or 3), height and width as `read_image` will give them, from the header alone.

    Raises:
        UnreadableImageError: naming the file and the reason.
    """
    with _open(path, max_pixels) as image:
        width, height = image.size
        turned = image.getexif().get(0x0112) in (5, 6, 7, 8)  # orientations that turn by 90 degrees
        if turned and image.format != "TIFF":  # a TIFF's size is turned already
            width, height = height, width
        return 1 if image.mode in GREY_MODES else 3, height, width


def read_image(
    path: Path | str,
    channels: int,
    *,
    max_pixels: int,
    window: tuple[float, float] | None = None,
) -> Tensor:
    """Reads an image file.

    Args:
        path: any file that Pillow reads. The EXIF orientation is applied, transparency dropped.
        channels: 1 for grey, 3 for RGB; converted where the file differs.
        max_pixels: larger images are refused before they are decoded.
        window: for 16-bit and float sources, the values that become 0 and 255. By default
            0..65535 for integers and the image's own finite range for floats.

    Returns:
        c h w uint8; the memory is h w c, so that batches are channels_last without a copy.

    Raises:
        UnreadableImageError: naming the file and the reason.
    """
    mode = "L" if channels == 1 else "RGB"
    with _open(path, max_pixels) as image:
        ImageOps.exif_transpose(image, in_place=True)
        image.info.pop("transparency", None)
        if image.mode.startswith("I") or image.mode == "F":
            image = Image.fromarray(_to_uint8(np.asarray(image), window))
        pixels = np.array(image if image.mode == mode else image.convert(mode))
    return torch.from_numpy(pixels).view(*pixels.shape[:2], channels).permute(2, 0, 1)


def _to_uint8(values: np.ndarray, window: tuple[float, float] | None) -> np.ndarray:
    if window is None and values.dtype.kind == "f":
        finite = values[np.isfinite(values)]
        if finite.size == 0:
            raise ValueError("it holds no finite value")
        window = float(finite.min()), float(finite.max())
    low, high = window or (0, 65535)
    inside = np.nan_to_num(np.clip(values.astype(np.float32), low, high), nan=low)
    return np.rint((inside - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)


def _unreadable(path: Path | str, error: Exception) -> UnreadableImageError:
    if isinstance(error, FileNotFoundError):
        reason = "there is no such file"
    elif isinstance(error, PermissionError):
        reason = "no permission to read it"
    elif isinstance(error, UnidentifiedImageError):
        reason = "not an image, or of a format that Pillow does not read"
    else:
        reason = str(error) or type(error).__name__
    return UnreadableImageError(f"{path}: {reason}; remove or replace the file")
