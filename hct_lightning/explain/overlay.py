"""A map laid over an image, with a legend.

The colours are one of matplotlib's perceptually uniform scales: equal steps of the map look like equal steps. Pillow
scales and blends, a byte a channel, so that an overlay takes little more memory than the image.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from hct_lightning.explain.maps import Map
from hct_lightning.runs.files import open_whole

COLOURS = ("viridis", "plasma", "inferno", "magma", "cividis")  # the perceptually uniform ones
PREVIEW = 512  # px, the longer side of a small copy
LINES = 2.6  # height of the legend, in lines of text


def check_look(colours: str, alpha: float) -> None:
    """Raises ValueError for unknown colours, or an alpha that shows one of the two alone."""
    if colours not in COLOURS:
        raise ValueError(
            f"explain.colours={colours}: choose one of {', '.join(COLOURS)}, in which equal steps look equal"
        )
    if not 0 < alpha < 1:
        raise ValueError(f"explain.alpha={alpha}: give a number between 0, the image alone, and 1, the map alone")


def palette(colours: str) -> np.ndarray:
    """256 3 uint8."""
    import matplotlib  # slow to import

    return (matplotlib.colormaps[colours](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


def save_overlay(file: Path, picture: Tensor, found: Map, text: str, *, colours: str, alpha: float) -> None:
    """Writes `<file>.png` with the picture's pixels, `<file>.jpg` small, and `<file>.npy` with the map's values.

    Args:
        file: without an ending.
        picture: 3 h w uint8, the part of the image that the network saw.
        found: the map over it.
        text: what it shows, for the legend.
        colours: one of COLOURS.
        alpha: how much of the map there is: 0 to 1.
    """
    full = overlay(picture, found, colours=colours, alpha=alpha)
    for image, options in ((full, {"format": "PNG", "compress_level": 1}), (preview(full), {"format": "JPEG"})):
        with open_whole(file.with_name(f"{file.name}.{'png' if image is full else 'jpg'}")) as out:
            with_legend(image, found, text, colours=colours).save(out, **options)
    with open_whole(file.with_name(f"{file.name}.npy")) as out:
        np.save(out, found.values.numpy(), allow_pickle=False)


def overlay(picture: Tensor, found: Map, *, colours: str, alpha: float) -> Image.Image:
    """The map over the picture, at the picture's size.

    Args:
        picture: 3 h w uint8, the part of the image that the network saw.
        found: scaled to it; cells become smooth.
        colours: one of COLOURS.
        alpha: how much of the map there is: 0 to 1.
    """
    below = to_image(picture)
    cells = Image.fromarray((found.shares() * 255).round().byte().numpy())
    above = cells.resize(below.size, Image.Resampling.BICUBIC)
    above.putpalette(palette(colours).tobytes())
    return Image.blend(below, above.convert("RGB"), alpha)


def to_image(picture: Tensor) -> Image.Image:
    """3 h w uint8 -> an image of Pillow's."""
    return Image.fromarray(np.ascontiguousarray(picture.permute(1, 2, 0).numpy()))


def preview(image: Image.Image) -> Image.Image:
    """A small copy; a smaller image as it is."""
    scale = min(1.0, PREVIEW / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=2.0)


def with_legend(image: Image.Image, found: Map, text: str, *, colours: str) -> Image.Image:
    """The image with a strip below it: what it shows, and the scale with the values at its ends.

    The image keeps its pixels and their places.
    """
    width, height = image.size
    low, high = (f"{value:.3g}" for value in found.range)
    high = f"{high} {found.unit}"
    size = max(8, min(width // 40, round(1.7 * width / max(len(text), len(low + high) + 12))))  # of letters, in px
    font = ImageFont.load_default(size)
    strip = round(LINES * size * 1.2)
    framed = Image.new("RGB", (width, height + strip), "white")
    framed.paste(image)
    draw = ImageDraw.Draw(framed)
    margin, top, middle = size // 2, height + size // 3, height + round(strip * 0.72)
    draw.text((margin, top), text, "black", font)
    left = 2 * margin + round(draw.textlength(low, font))
    right = max(left + 8, width - 2 * margin - round(draw.textlength(high, font)))
    draw.text((margin, middle), low, "black", font, anchor="lm")
    draw.text((right + margin, middle), high, "black", font, anchor="lm")
    scale = palette(colours)[np.linspace(0, 255, right - left).round().astype(int)]
    bar = Image.fromarray(np.broadcast_to(scale, (max(1, round(0.7 * size)), *scale.shape)).copy())
    framed.paste(bar, (left, middle - bar.height // 2))
    return framed
