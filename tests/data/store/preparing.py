"""Preparing a store, for tests."""

import hashlib
from pathlib import Path

from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.sources.folder import folder
from hct_lightning.data.store.format import Recipe
from hct_lightning.data.store.prepare import prepare

RECIPE = Recipe(Decoding(channels=3, size=(64, 64), geometry="cover", max_pixels=10**7), "raw", None)


def run(
    images: Path, root: Path, skip: bool = False, file_format: str = "raw", quality: int | None = None, **options
) -> dict[str, str]:
    defaults = {"channels": 3, "size": (64, 64), "geometry": "cover", "max_pixels": 10**7}
    return prepare(
        folder(str(images), valid_fraction=0.2, split_seed=0),
        Recipe(Decoding(**defaults | options), file_format, quality),
        root,
        workers=2,
        skip_unreadable=skip,
        progress=lambda items, _: items,
    )


def contents(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }
