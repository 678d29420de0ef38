"""What a store looks like on the disk.

    <store>/store.json                     what was made, of what, and how
    <store>/<split>/<class>/<item>.npy     raw: h w c uint8; .png: lossless; .jpg: JPEG

Items are plain files of their format, so that any program reads them. While `task=prepare` works, or
when it was killed, `store.json` says that the store isn't complete, and it is refused.
"""

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from hct_lightning.data.catalogue import SIDES
from hct_lightning.data.reading.decoding import MAX_PIXELS_BEFORE, Decoding
from hct_lightning.data.reading.geometry import Size

VERSION = 2
_STEM_BYTES = 180  # of a source's name that an item's keeps; a name has 255 on most disks
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
        """The recipe that `as_json` gave.

        Raises:
            ValueError: when it is damaged.
        """
        try:
            decoding, made_as, quality = Decoding.from_json(saved["decoding"]), saved["format"], saved["quality"]
        except (KeyError, TypeError) as error:
            raise ValueError(f"a recipe without {error}") from error
        if made_as not in SUFFIX or not decoding.size:
            raise ValueError(f"a recipe of format {made_as!r:.50} and size {decoding.size}")
        return cls(decoding, made_as, quality)


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

    @classmethod
    def from_json(cls, saved: Mapping[str, Any], classes: Collection[str]) -> "Item":
        """An item as `store.json` holds it, of one of these classes.

        Raises:
            TypeError: when a field is missing, unknown or of another kind.
            ValueError: when it has another class or split.
        """
        item = cls(**saved)
        height, width = item.source_size
        texts, numbers = (item.file, item.source, item.sha256), (item.bytes, item.source_bytes, height, width)
        if not all(isinstance(text, str) for text in texts) or not all(type(n) is int and n > 0 for n in numbers):
            raise TypeError("a field of an item is of another kind")
        if not isinstance(item.tags, dict) or not all(isinstance(t, str) for pair in item.tags.items() for t in pair):
            raise TypeError("the tags of an item are of another kind")
        if ".." in PurePosixPath(item.file).parts or item.file.startswith("/"):
            raise ValueError(f"it names {item.file!r:.200}, which is outside of the store")
        if item.label not in classes or item.split not in SIDES:
            raise ValueError(f"{item.file!r:.200} is of the class {item.label!r:.50} and the split {item.split!r:.50}")
        return item


def item_file(split: str, label: str, source: str, file_format: str, *, apart: bool = False) -> str:
    """The item of a source file, relative to the store: the same in every call and different for every source.

    Args:
        split: train, valid or test.
        label: the class's name. Others may have the same folder: where only such letters differ as no folder has.
        source: the file.
        file_format: of the item.
        apart: different for every class too, for a source that is of several.
    """
    folder = "".join(c if c.isalnum() or c in "-_. " else "_" for c in label).strip(". ") or "_"
    # Names come from anywhere: of any bytes, and as long as a disk allows without what is added here.
    stem = os.fsencode(Path(source).stem[:80])[:_STEM_BYTES].decode(errors="ignore")
    digest = hashlib.sha256(os.fsencode(f"{label}\0{source}" if apart else source)).hexdigest()[:10]
    return f"{split}/{folder}/{stem}-{digest}{SUFFIX[file_format]}"


def write_item(image: Tensor, file: BinaryIO, recipe: Recipe) -> None:
    """Writes c h w uint8 in the recipe's format."""
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    if recipe.format == "raw":
        header = np.lib.format.header_data_from_array_1_0(pixels)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(pixels.data)
        return
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if recipe.format == "png":
        picture.save(file, "png", compress_level=1)
    else:
        picture.save(file, "jpeg", quality=recipe.quality, subsampling=0)


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
    except (ValueError, KeyError, RecursionError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it and prepare again") from error
    if version not in (1, VERSION):
        raise ValueError(f"{path} is of version {version!r:.50}, this program reads {VERSION}; prepare the store again")
    return manifest | {"version": VERSION}


def _from_version_1(recipe: dict[str, Any]) -> dict[str, Any]:
    """There the decoding stood beside the format."""
    decoding = Decoding(
        max_pixels=MAX_PIXELS_BEFORE,
        **{key: value for key, value in recipe.items() if key not in ("format", "quality")},
    )
    return Recipe(decoding, recipe["format"], recipe["quality"]).as_json()
