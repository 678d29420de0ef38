"""The prepared store: uint8 crops on disk, read at the speed of memory."""

import math
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hct_lightning.data.catalogue import SIDES, Catalogue, Original, Split
from hct_lightning.data.reading import geometry as geo
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.image import UnreadableImageError, read_image
from hct_lightning.data.reading.readers import Reader
from hct_lightning.data.store.format import Item, Recipe, read_manifest
from hct_lightning.data.store.remote import Mirror


class Store:
    """A complete store.

    Args:
        root: its folder.
        mirror: where it comes from when it is elsewhere; its items are then brought when they are read.

    Attributes:
        recipe: how its items were made.
        decoding: how the originals were read.
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
        if not manifest.get("complete"):
            raise ValueError(
                f"the store {root} is not complete: task=prepare was interrupted; run it again "
                "with the same options, and it goes on"
            )
        try:
            self.recipe = Recipe.from_json(manifest["recipe"])
            self.decoding = self.recipe.decoding
            self.classes = tuple(manifest["classes"])
            self.source = str(manifest["source"])
            self.notes = tuple(map(str, manifest["notes"]))
            self.items = [Item.from_json(item, self.classes) for item in manifest["items"]]
            most = 2 * math.prod(self.recipe.size) * self.decoding.channels + 2**16  # of any format
            if large := next((item for item in self.items if item.bytes > most), None):
                raise ValueError(f"{large.file!r:.200} has {large.bytes} bytes, an image here at most {most}")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{root}/store.json is damaged: {error!s:.500}; prepare the store again") from error
        self.by_path = {str(root / item.file): item for item in self.items}
        for item in self.items:
            path = root / item.file
            if mirror:
                continue
            if not path.is_file() or path.stat().st_size != item.bytes:
                raise ValueError(
                    f"{path} is missing or cut off; run task=prepare again with the options of this "
                    "store, and it is made anew"
                )

    def catalogue(self) -> Catalogue:
        splits = {}
        for name in SIDES:
            items = [item for item in self.items if item.split == name]
            paths = [str(self.root / item.file) for item in items]
            tags = {column: [item.tags[column] for item in items] for column in (items[0].tags if items else ())}
            splits[name] = Split(paths, [self.classes.index(item.label) for item in items], tags)
        what = f"store {self.mirror.url if self.mirror else self.root} ({self.recipe.format}) of {self.source}"
        return Catalogue(what, self.classes, **splits, notes=self.notes, prepared=self)

    def original(self, path: str) -> Original:
        item = self.by_path[path]
        height, width = item.source_size
        return Original((height, width), item.sha256)

    def reader(self, wanted: Decoding) -> "StoreReader":
        """Gives the images at the store's own size, or a lower one that can be derived from it.

        Raises:
            ValueError: saying what does not match.
        """
        for name in ("channels", "geometry", "window", "srgb", "breast"):
            made, mine = getattr(self.decoding, name), getattr(wanted, name)
            if mine != made:
                raise ValueError(
                    f"the store {self.root} was prepared with data.{name}={made}, not {mine}; leave it out, or "
                    "prepare another store"
                )
        size = wanted.size or self.recipe.size
        regions = {}
        for item in self.items:
            region = derive(item.source_size, self.recipe.size, size, wanted.geometry)
            if region is None:
                have, want = ("x".join(map(str, s)) for s in (self.recipe.size, size))
                raise ValueError(
                    f"the store {self.root} holds {have} images, of which data.resolution={want} "
                    f"can't be derived ({item.source} shows more, or finer detail, there); leave "
                    "data.resolution out, or prepare another store"
                )
            regions[str(self.root / item.file)] = region
        bring = partial(self._bring, self.mirror) if self.mirror else None
        return StoreReader(self.recipe, replace(wanted, size=size), regions, bring)

    def _bring(self, mirror: Mirror, path: str) -> None:
        item = self.by_path[path]
        mirror.bring(item.file, item.bytes)


class StoreReader(Reader):
    """Reads items of a store, each cut to its region and brought to the wanted size.

    Args:
        recipe: of the store.
        wanted: what the images are to be like.
        regions: what is seen of each item, by its path.
        bring: called with a path before it is read.
    """

    def __init__(
        self,
        recipe: Recipe,
        wanted: Decoding,
        regions: dict[str, geo.Region],
        bring: Callable[[str], None] | None = None,
    ) -> None:
        self.recipe = recipe
        self.wanted = wanted
        self.regions = regions
        self.bring = bring
        self.size = wanted.size or recipe.size
        self.shape = (*self.size, wanted.channels)
        height, width = recipe.size
        self.whole = geo.Region(0, 0, height, width)
        # Items are read as they are: what was asked of the originals has been done.
        self.item = Decoding(
            channels=wanted.channels, size=recipe.size, geometry=wanted.geometry, max_pixels=height * width
        )

    def __call__(self, path: str) -> Tensor:
        if self.bring:
            self.bring(path)
        if self.recipe.format == "raw":
            pixels = np.empty((*self.recipe.size, self.wanted.channels), np.uint8)
            read_raw(path, pixels)
            image = torch.from_numpy(pixels).permute(2, 0, 1)
        else:
            image = read_image(path, self.item)
        image = geo.resize(geo.cut(image, self.regions[path]), self.size)
        return geo.coarsen(image, self.wanted.reduce_to)

    def into(self, path: str, place: np.ndarray) -> None:
        as_it_is = (
            self.recipe.format == "raw"
            and self.regions[path] == self.whole
            and self.size == self.recipe.size
            and self.wanted.reduce_to is None
        )
        if not as_it_is:
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
            target, done = memoryview(place.data).cast("B"), 0
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
