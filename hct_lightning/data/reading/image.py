"""Reading image files as uint8, whatever they are stored as.

`read_image` gives a whole image, or one brought to the network's size, of which only what is needed is
decoded: libvips (the extra `data`) reads, cuts and scales in one pass, and JPEG is shrunk while it is
decoded. Without libvips Pillow and torch do the same more slowly; scaled pixels differ by 1 or 2 of 255.
"""

import errno
import io
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from hct_lightning.data.reading import dicom, slides, tiff
from hct_lightning.data.reading import geometry as geo
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.pillow import open_image
from hct_lightning.data.reading.vips import read_with_vips
from hct_lightning.data.reading.window import Window, to_uint8
from hct_lightning.runs import out_of_memory

SUFFIXES = (".avif", ".bmp", ".dcm", ".gif", ".jp2", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
GREY_MODES = {"1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
_KINDS = {  # what a mode of Pillow's is in words
    "1": "a 1-bit image",
    "L": "a grey image",
    "LA": "a grey image with alpha",
    "P": "a palette image",
    "PA": "a palette image with alpha",
    "RGB": "an RGB image",
    "RGBA": "an RGB image with alpha",
    "RGBX": "an RGB image with a band more",
    "F": "a float image",
}
_FEWER = {"1", "L", "LA", "La", "P", "PA"}  # modes whose pixels are not those that a profile is for
_ADVISES = re.compile(r"give data\.|: data\.|pip install")  # a reason that says itself what helps
_ORIENTATION = 0x0112  # the EXIF tag; values 5 to 8 turn by 90 degrees
_BANDS = 4  # of a pixel as data.max_pixels counts them; those beyond count as more pixels


class UnreadableImageError(ValueError):
    """An image file that can't be read; the message names the file and the reason."""


def is_image(path: Path) -> bool:
    return (path.suffix.lower() in SUFFIXES or slides.is_slide(path)) and not path.name.startswith(".")


@contextmanager
def _naming(path: Path | str) -> Iterator[None]:
    """Turns whatever a decoder raises into an UnreadableImageError that names the file."""
    try:
        _refuse_what_is_no_file(path)
        yield
    except UnreadableImageError:
        raise
    except Exception as error:  # damaged files make decoders raise everything there is
        if out_of_memory.shows_in(error):
            raise MemoryError(f"{_shown(path)}: {error}") from error
        raise unreadable(path, error) from error


def _refuse_what_is_no_file(path: Path | str) -> None:
    """A pipe would be waited for, and a device read for ever."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a device or socket"
        raise ValueError(f"it is {kind}, not a file")


def refuse_huge(path: Path | str, shape: tuple[int, int, int], max_pixels: int) -> None:
    """Raises UnreadableImageError for an image of more pixels, its shape given as bands, height and width."""
    bands, height, width = shape
    if width * height * max(1, bands / _BANDS) > max_pixels:
        many = f" of {bands} bands" if bands > _BANDS else ""
        raise UnreadableImageError(
            f"{_shown(path)}: {width}x{height} pixels{many} are more than data.max_pixels={max_pixels}; "
            "raise it if the image is genuine"
        )


def probe(path: Path | str, *, max_pixels: int) -> tuple[int, int, int]:
    """Channels, height and width as `read_image` will give them, from the header alone.

    Raises:
        UnreadableImageError: naming the file and the reason.
    """
    with _naming(path):
        if slides.is_slide(path):
            height, width, bands = slides.Slide(path).shape
            shape = bands, height, width
        elif dicom.is_dicom(path):
            shape = dicom.probe(path)
        elif tiff.is_multi_band(path):
            shape = tiff.probe(path)
        else:
            with open_image(path) as image:
                if tiff.has_bands_beside_colours(image):
                    shape = tiff.probe(path)
                else:
                    shape = (1 if image.mode in GREY_MODES else 3), *_upright_size(image)
        refuse_huge(path, shape, max_pixels)
        return shape


def sample_sizes(paths: Sequence[str], *, max_pixels: int, most: int = 32) -> list[geo.Size]:
    """(height, width) of some of the files, evenly spaced; those that can't be read are left out."""
    sizes = []
    for i in range(0, len(paths), -(-len(paths) // most)):
        with suppress(UnreadableImageError):
            sizes.append(probe(paths[i], max_pixels=max_pixels)[1:])
    return sizes


def read_image(path: Path | str, decoding: Decoding, *, threads: int = 1) -> Tensor:
    """Reads a file that Pillow reads, a TIFF of many bands, or DICOM, as `decoding` says.

    The EXIF orientation is applied, transparency dropped.

    Args:
        path: the file.
        decoding: how it becomes pixels.
        threads: that decode a large JPEG; one where other images are read at the same time.

    Returns:
        c h w uint8; the memory is h w c, so that batches are channels_last without a copy.

    Raises:
        UnreadableImageError: naming the file and the reason.
    """
    with _naming(path):
        return geo.coarsen(_sized(path, decoding, threads), decoding.reduce_to)


def read_seen(path: Path | str, decoding: Decoding) -> Tensor:
    """The part of a file that becomes the network's input, with the pixels of the file: c h w uint8.

    Raises:
        UnreadableImageError: naming the file and the reason.
    """
    if decoding.size is None:
        return read_image(path, decoding)
    whole = read_image(path, replace(decoding, size=None, reduce_to=None))
    return geo.cut(whole, geo.choose_region(geo.size_of(whole), decoding.size, decoding.geometry))


def _sized(path: Path | str, how: Decoding, threads: int) -> Tensor:
    """c h w uint8 of the decoding's size."""
    if slides.is_slide(path):
        raise ValueError("a whole slide is read by region: data.resolution=native")
    if dicom.is_dicom(path):
        refuse_huge(path, dicom.probe(path), how.max_pixels)
        pixels = dicom.read(path, how.channels, how.window, breast=how.breast)
    elif tiff.is_multi_band(path) or (how.channels not in (1, 3) and tiff.is_tiff(path)):
        refuse_huge(path, tiff.probe(path), how.max_pixels)
        pixels = tiff.read(path, how.channels, how.window)
    else:
        with open_image(path) as image:
            size, orientation = _upright_size(image), _orientation(image)
            refuse_huge(path, (1, *size), how.max_pixels)
            convert = how.srgb and "icc_profile" in image.info
            if how.size and image.mode in ("L", "RGB", "RGBA") and not convert:
                ready = read_with_vips(
                    path, image.format or "", how.channels, size, orientation, how.size, how.geometry, threads
                )
                if ready is not None:
                    return _tensor(ready)
            if orientation != 1:
                ImageOps.exif_transpose(image, in_place=True)
            pixels = _read_with_pillow(image, how.channels, how.window, srgb=convert)
    image = _tensor(pixels)
    return geo.apply(image, how.size, how.geometry) if how.size else image


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 where there is none."""
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & image.info.keys():
        return 1  # Pillow would decode the whole image to look for one behind the pixels
    return image.getexif().get(_ORIENTATION, 1)


def _upright_size(image: Image.Image) -> geo.Size:
    width, height = image.size
    turned = _orientation(image) in (5, 6, 7, 8)
    if turned and image.format != "TIFF":  # a TIFF's size is turned already
        width, height = height, width
    return height, width


def _read_with_pillow(image: Image.Image, channels: int, window: Window | None, *, srgb: bool) -> np.ndarray:
    if channels not in (1, 3):
        kind = (
            _KINDS.get(image.mode) or (GREY_MODES & {image.mode} and "a 16-bit grey image") or f"a {image.mode} image"
        )
        raise ValueError(f"it is {kind} where data.channels={channels} takes a TIFF of so many bands")
    mode = "L" if channels == 1 else "RGB"
    image.info.pop("transparency", None)
    if image.mode == "La":  # alpha multiplied into it, of which Pillow makes nothing else
        image = image.convert("LA")
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(to_uint8(np.asarray(image), window))
    elif srgb:
        image = _to_srgb(image)
    return np.array(image if image.mode == mode else image.convert(mode))


def _to_srgb(image: Image.Image) -> Image.Image:
    profile: Any = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
    if image.mode in _FEWER:  # grey with the profile of a screen, a palette
        image = image.convert("L" if profile.profile.xcolor_space == "GRAY" else "RGB")
    try:
        converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except ImageCms.PyCMSError as error:
        raise ValueError(f"its ICC profile can't be used: {error}") from error
    assert converted is not None, "it is converted in place only when asked to"
    return converted


def _tensor(pixels: np.ndarray) -> Tensor:
    """h w or h w c -> c h w, a view."""
    return torch.from_numpy(pixels).view(*pixels.shape[:2], -1).permute(2, 0, 1)


def _shown(path: Path | str) -> str:
    """A file's name within a line; as Python writes it where it holds line breaks or bytes that are no text."""
    name = str(path)
    return name if name.isprintable() else repr(name)


def unreadable(path: Path | str, error: Exception) -> UnreadableImageError:
    """The error that names the file, and says why a decoder raised `error`."""
    if isinstance(error, FileNotFoundError):
        reason = "there is no such file"
    elif isinstance(error, PermissionError):
        reason = "no permission to read it"
    elif isinstance(error, OSError) and error.errno == errno.ELOOP:
        reason = "it is a link that leads back to itself"
    elif isinstance(error, UnidentifiedImageError):
        reason = _what_it_is(path)
    elif isinstance(error, OSError | SyntaxError | ValueError | EOFError) and str(error):
        reason = str(error)
    else:
        reason = f"damaged, or of an unusual kind ({type(error).__name__}: {error})"
    advice = "" if _ADVISES.search(reason) else "; remove or replace the file"
    return UnreadableImageError(f"{_shown(path)}: {' '.join(reason.split())}{advice}")


def _what_it_is(path: Path | str) -> str:
    with open(path, "rb") as file:
        start = file.read(512)
    if not start:
        return "not an image: the file is empty"
    if start.isascii() and start.decode().replace("\n", " ").replace("\r", " ").replace("\t", " ").isprintable():
        return "not an image, but text"
    return "not an image, or of a format that Pillow does not read"
