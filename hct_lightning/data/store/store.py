"""The prepared store: uint8 crops on disk, read at the speed of memory.

    <store>/store.json                     what was made, of what, and how
    <store>/<split>/<class>/<item>.npy     raw: h w c uint8; .png: lossless; .jpg: JPEG

Items are plain files of their format, so that any program reads them. While `task=prepare` works, or
when it was killed, `store.json` says that the store isn't complete, and it is refused.
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hct_lightning.data.catalogue import Catalogue, Split
from hct_lightning.data.reading import geometry as geo
from hct_lightning.data.reading.image import UnreadableImageError, read_image
from hct_lightning.data.reading.readers import Reader
from hct_lightning.data.reading.window import Window, check_window
from hct_lightning.data.store.remote import Mirror

VERSION = 1
SUFFIX = {"raw": ".npy", "png": ".png", "jpeg": ".jpg"}


@dataclass(frozen=True)
class Recipe:
    """How a store's items were made of their sources; arguments as of `read_image`.

    format: raw, png or jpeg.
    quality: of JPEG, else None.
    """

    size: geo.Size
    geometry: geo.Geometry
    channels: int
    window: Window | None
    srgb: bool
    breast: bool
    format: str
    quality: int | None

    def as_json(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self)))


class Item(NamedTuple):
    """An image of a store.

    file: relative to the store.
    split: train or valid.
    label: its class's name.
    bytes: of the file.
    source: the file it was made of.
    source_size: (height, width) of that.
    source_bytes, source_mtime_ns: of that file, by which a change is noticed.
    sha256: of that file.
    """

    file: str
    split: str
    label: str
    bytes: int
    source: str
    source_size: geo.Size
    source_bytes: int
    source_mtime_ns: int
    sha256: str


class Store:
    """A complete store.

    Args:
        root: its folder.
        mirror: where it comes from when it is elsewhere; its items are then brought when they are read.

    Attributes:
        items: the images.
        by_path: the same, by the path under which they are read.

    Raises:
        ValueError: when it is none, or not complete, or a file is missing or cut off.
    """

    def __init__(self, root: Path, mirror: Mirror | None = None) -> None:
        self.root = root
        self.mirror = mirror
        manifest = read_manifest(root)
        if manifest is None:
            raise ValueError(
                f"{root} is not a prepared store: there is no store.json; make one with "
                f"task=prepare prepare.output={root}"
            )
        if not manifest["complete"]:
            raise ValueError(
                f"the store {root} is not complete: task=prepare was interrupted; run it again "
                "with the same options, and it goes on"
            )
        recipe = manifest["recipe"]
        window = check_window(recipe["window"]) if recipe["window"] else None
        self.recipe = Recipe(**recipe | {"size": tuple(recipe["size"]), "window": window})
        self.classes = tuple(manifest["classes"])
        self.source = manifest["source"]
        self.notes = tuple(manifest["notes"])
        self.items = [Item(**item) for item in manifest["items"]]
        self.by_path = {str(root / item.file): item for item in self.items}
        for item in self.items:
            path = root / item.file
            if ".." in PurePosixPath(item.file).parts or item.file.startswith("/"):
                raise ValueError(f"{root}/store.json names {item.file}, which is outside of the store")
            if mirror:
                continue
            if not path.is_file() or path.stat().st_size != item.bytes:
                raise ValueError(
                    f"{path} is missing or cut off; run task=prepare again with the options of this "
                    "store, and it is made anew"
                )

    def catalogue(self) -> Catalogue:
        splits = {}
        for name in ("train", "valid"):
            items = [item for item in self.items if item.split == name]
            paths = [str(self.root / item.file) for item in items]
            splits[name] = Split(paths, [self.classes.index(item.label) for item in items])
        what = f"store {self.mirror.url if self.mirror else self.root} ({self.recipe.format}) of {self.source}"
        return Catalogue(what, self.classes, **splits, notes=self.notes, store=self)

    def reader(self, size: geo.Size, geometry: geo.Geometry) -> "StoreReader":
        """Gives the images at `size`, the store's own or a lower one that can be derived from it.

        Raises:
            ValueError: saying what does not match.
        """
        if geometry != self.recipe.geometry:
            raise ValueError(
                f"the store {self.root} was prepared with data.geometry={self.recipe.geometry}, not "
                f"{geometry}; leave it out, or prepare another store"
            )
        regions = {}
        for item in self.items:
            region = derive(item.source_size, self.recipe.size, size, geometry)
            if region is None:
                have, want = ("x".join(map(str, s)) for s in (self.recipe.size, size))
                raise ValueError(
                    f"the store {self.root} holds {have} images, of which data.resolution={want} "
                    f"can't be derived ({item.source} shows more, or finer detail, there); leave "
                    "data.resolution out, or prepare another store"
                )
            regions[str(self.root / item.file)] = region
        return StoreReader(self.recipe, size, regions, self._bring if self.mirror else None)

    def _bring(self, path: str) -> None:
        item = self.by_path[path]
        self.mirror.bring(item.file, item.bytes)


class StoreReader(Reader):
    """Reads items of a store, each cut to its region and brought to `size`.

    Args:
        recipe: of the store.
        size: (height, width) of every image.
        regions: what is seen of each item, by its path.
        bring: called with a path before it is read.
    """

    def __init__(
        self,
        recipe: Recipe,
        size: geo.Size,
        regions: dict[str, geo.Region],
        bring: Callable[[str], None] | None = None,
    ) -> None:
        self.recipe = recipe
        self.bring = bring
        self.shape = (*size, recipe.channels)
        self.regions = regions
        self.whole = geo.Region(0, 0, *recipe.size)

    def __call__(self, path: str) -> Tensor:
        if self.bring:
            self.bring(path)
        region = self.regions[path]
        if self.recipe.format == "raw":
            pixels = np.empty((*self.recipe.size, self.recipe.channels), np.uint8)
            read_raw(path, pixels)
            image = torch.from_numpy(pixels).permute(2, 0, 1)
        else:
            size = self.recipe.size
            image = read_image(path, self.recipe.channels, max_pixels=size[0] * size[1], size=size)
        return geo.resize(geo.cut(image, region), self.shape[:2])

    def into(self, path: str, place: np.ndarray) -> None:
        whole = self.regions[path] == self.whole and self.shape[:2] == self.recipe.size
        if self.recipe.format != "raw" or not whole:
            super().into(path, place)
            return
        if self.bring:
            self.bring(path)
        read_raw(path, place)


def read_raw(path: str, place: np.ndarray) -> None:
    """Reads the pixels of a raw item to `place`.

    Read and not mapped: an error of the disk, or a file cut off, is then an exception and not the end of
    the process; and the one copy goes to where the batch wants it.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(-place.nbytes, os.SEEK_END)  # behind the header
            target, done = memoryview(place).cast("B"), 0
            while done < place.nbytes:
                count = file.readinto(target[done:])
                if not count:
                    raise OSError(f"it ends {place.nbytes - done} bytes too early")
                done += count
    except OSError as error:
        raise UnreadableImageError(f"{path}: {error}; prepare the store again") from error


def derive(source: geo.Size, stored: geo.Size, target: geo.Size, geometry: geo.Geometry) -> geo.Region | None:
    """The region of a stored image that a lower resolution shows; None where the store has too little.

    Args:
        source: (height, width) of the original.
        stored: of the store.
        target: of the network.
        geometry: of both.
    """
    have = geo.choose_region(source, stored, geometry)
    want = geo.choose_region(source, target, geometry)
    scale = have.height / stored[0], have.width / stored[1]  # source pixels per stored pixel
    seen = geo.inside(want, source)
    if geo.inside(geo.shift(seen, have), have[2:]) != geo.shift(seen, have):
        return None
    part = geo.shift(want, have)
    region = geo.Region(*(round(side / s) for side, s in zip(part, scale * 2, strict=True)))
    return None if region.height < target[0] or region.width < target[1] else region


def read_manifest(root: Path) -> dict[str, Any] | None:
    """`store.json`, or None where there is none.

    Raises:
        ValueError: when it is of another version or damaged.
    """
    path = root / "store.json"
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it and prepare again") from error
    if version != VERSION:
        raise ValueError(f"{path} is of version {version}, this program reads {VERSION}; prepare the store again")
    return manifest
