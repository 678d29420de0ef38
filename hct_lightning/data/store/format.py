"""What a store looks like on the disk.

    <store>/store.json                     what was made, of what, and how
    <store>/<split>/<class>/<item>.npy     raw: h w c uint8; .png: lossless; .jpg: JPEG

Items are plain files of their format, so that any program reads them. While `task=prepare` works, or
when it was killed, `store.json` says that the store isn't complete, and it is refused.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hct_lightning.data.reading.decoding import MAX_PIXELS_BEFORE, Decoding
from hct_lightning.data.reading.geometry import Size

VERSION = 2
SUFFIX = {"raw": ".npy", "png": ".png", "jpeg": ".jpg"}


@dataclass(frozen=True)
class Recipe:
    """How a store's items were made of their sources.

    decoding: what was read of each file.
    format: raw, png or jpeg.
    quality: of JPEG, else None.
    """

    decoding: Decoding
    format: str
    quality: int | None

    @property
    def size(self) -> Size:
        """(height, width) of every item."""
        assert self.decoding.size, "a store has one"
        return self.decoding.size

    def as_json(self) -> dict[str, Any]:
        return {"decoding": self.decoding.as_json(), "format": self.format, "quality": self.quality}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> "Recipe":
        return cls(Decoding.from_json(saved["decoding"]), saved["format"], saved["quality"])


class Item(NamedTuple):
    """An image of a store.

    file: relative to the store.
    split: train, valid or test.
    label: its class's name.
    bytes: of the file.
    source: the file it was made of.
    source_size: (height, width) of that.
    source_bytes, source_mtime_ns: of that file, by which a change is noticed.
    sha256: of that file.
    tags: what else a table says of it, by column.
    """

    file: str
    split: str
    label: str
    bytes: int
    source: str
    source_size: Size
    source_bytes: int
    source_mtime_ns: int
    sha256: str
    tags: dict[str, str] = {}  # noqa: RUF012, nobody changes it; stores made before lack tags


def read_manifest(root: Path) -> dict[str, Any] | None:
    """`store.json` in the form of this version, or None where there is none.

    Raises:
        ValueError: when it is of another version or damaged.
    """
    path = root / "store.json"
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["version"]
        if version == 1:
            manifest["recipe"] = _from_version_1(manifest["recipe"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it and prepare again") from error
    if version not in (1, VERSION):
        raise ValueError(f"{path} is of version {version}, this program reads {VERSION}; prepare the store again")
    return manifest | {"version": VERSION}


def _from_version_1(recipe: dict[str, Any]) -> dict[str, Any]:
    """There the decoding stood beside the format."""
    decoding = Decoding(
        max_pixels=MAX_PIXELS_BEFORE,
        **{key: value for key, value in recipe.items() if key not in ("format", "quality")},
    )
    return Recipe(decoding, recipe["format"], recipe["quality"]).as_json()
