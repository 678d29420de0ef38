"""How a file becomes pixels: one description, which stores, checkpoints and artifacts carry whole."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any

from hct_lightning.data.reading.geometry import NATIVE, Geometry, Size, as_size, check_geometry, padding
from hct_lightning.data.reading.window import Window, check_window

VERSION = 1  # of the description as it is saved
MAX_PIXELS_BEFORE = 2**30  # of what was written before there were descriptions: the default, and not written down


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """What `read_image` makes of a file. Two equal descriptions give the same pixels.

    Args:
        channels: 1 for grey, 3 for RGB, converted where the file differs; else the file's bands.
        size: (height, width) that the image is brought to; None, or `native`, leaves it as it is.
        geometry: by what rule, `cover` or `paper`.
        max_pixels: larger files are refused before they are decoded.
        window: for 16-bit and float sources, the values that become 0 and 255, for all bands or a pair for
            each. By default 0..65535 for integers, the image's own finite range for floats, and what the file
            says for DICOM. (Of 16-bit colour in PNG the upper byte is read.)
        srgb: converts from the embedded ICC profile to sRGB; otherwise it is ignored.
        breast: of DICOM mammograms: turned so that the breast lies on the left, and cropped to it.
        reduce_to: reduces the image to so many pixels a side and enlarges it again: a control that keeps the
            network's input size and takes the fine detail away.

    Raises:
        ValueError: for a value out of its range, named as the option `data.<field>`.
    """

    channels: int
    size: Size | None
    geometry: Geometry
    max_pixels: int
    window: Window | None = None
    srgb: bool = False
    breast: bool = False
    reduce_to: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.channels, int) or self.channels < 1:
            raise ValueError(f"data.channels={self.channels}: give 1 (grey), 3 (RGB) or the number of bands")
        for option, pixels in (
            ("reduce_to", 1 if self.reduce_to is None else self.reduce_to),
            ("max_pixels", self.max_pixels),
        ):
            if not isinstance(pixels, int) or pixels < 1:
                raise ValueError(f"data.{option}={pixels}: give a whole number of pixels of at least 1")
        check_geometry(self.geometry)
        if self.size is not None:
            object.__setattr__(self, "size", None if self.size == NATIVE else as_size(self.size))
        if self.window is not None:
            object.__setattr__(self, "window", check_window(self.window))

    def with_options(self, given: Mapping[str, Any]) -> "Decoding":
        """This one with what is asked for on top.

        Args:
            given: options of the group `data`, by name; those that say nothing of decoding are left alone. Null is
                what the field is without being asked for (no window), or leaves one that every decoding has.
        """
        changes = {}
        for known in fields(self):
            option = "resolution" if known.name == "size" else known.name
            if option in given:
                value = known.default if given[option] is None else given[option]
                changes |= {} if value is MISSING else {known.name: value}
        return replace(self, **changes)

    def as_json(self) -> dict[str, Any]:
        """Plain containers, with the version of their form."""
        return {"version": VERSION} | {name: _plain(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> "Decoding":
        """The description that `as_json` gave.

        Raises:
            ValueError: when it is of another version or damaged.
        """
        if not isinstance(saved, Mapping) or saved.get("version") != VERSION:
            version = saved.get("version") if isinstance(saved, Mapping) else saved
            raise ValueError(f"a decoding of version {version!r}; this program reads {VERSION}")
        try:
            return cls(**{field.name: saved[field.name] for field in fields(cls)})
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"a damaged decoding: {error!r}") from error


def sizes_in_words(decoding: Decoding) -> str:
    """`at 512x512 (cover)`, or that images keep their sizes."""
    if decoding.size is None:
        return "at their own sizes"
    return f"at {decoding.size[0]}x{decoding.size[1]} ({decoding.geometry})"


def padding_note(decoding: Decoding, sizes: Sequence[Size]) -> str | None:
    """What a user should know where images of these sizes, (height, width), are mostly padded; None otherwise."""
    if decoding.size is None:
        return None
    padded = [padding(size, decoding.size, decoding.geometry) for size in sizes]
    if not (small := [share for share in padded if share > 0.5]):
        return None
    return (
        f"data.geometry={decoding.geometry} pads more than half of {len(small)} of the {len(padded)} images looked at "
        f"with black, up to {max(small):.0%}; data.geometry=cover fills the whole, a lower data.resolution pads less"
    )


def _plain(value: Any) -> Any:
    return [_plain(part) for part in value] if isinstance(value, tuple) else value
