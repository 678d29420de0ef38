"""From the bands that a file has to the channels that the network takes."""

import numpy as np
from PIL import Image
from torch import Tensor


def to_channels(pixels: np.ndarray, channels: int, kind: str) -> np.ndarray:
    """h w bands uint8 -> h w channels: grey is repeated, colour made grey as Pillow does (ITU-R 601-2), other bands stay as they are.

    Raises:
        ValueError: where there are too many bands or too few, with `kind`: what the file is.
    """
    bands = pixels.shape[2]
    if bands == channels:
        return np.ascontiguousarray(pixels)
    if (bands, channels) == (1, 3):
        return pixels.repeat(3, axis=2)
    if (bands, channels) == (3, 1):
        return np.array(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))[..., None]
    raise ValueError(f"it is {kind} where data.channels={channels}")


def as_rgb(image: Tensor) -> Tensor:
    """c h w -> 3 h w, for people to look at: of more channels the first three, of fewer the first as grey."""
    return image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
