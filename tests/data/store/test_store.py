"""The store: what was prepared is what would have been read."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hct_lightning.data.catalogue import Catalogue, Split
from hct_lightning.data.reading import geometry as geo
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.image import UnreadableImageError, read_image
from hct_lightning.data.store.format import Recipe
from hct_lightning.data.store.prepare import prepare
from hct_lightning.data.store.store import Store, StoreReader, derive

LIMIT = 2**26


def recipe(file_format: str = "raw", quality: int | None = None, **options) -> Recipe:
    defaults = {"channels": 3, "size": (64, 64), "geometry": "cover", "max_pixels": LIMIT}
    return Recipe(Decoding(**defaults | options), file_format, quality)


def make(paths: list[Path], root: Path, made_with: Recipe) -> Store:
    paths = [str(path) for path in paths]
    found = Catalogue("pictures", ("a", "b"), Split(paths, [i % 2 for i in range(len(paths))]), Split())
    options = {"workers": 1, "skip_unreadable": False}
    assert prepare(found, made_with, root, **options, progress=lambda items, _: items) == {}
    return Store(root)


def direct(path: str, made_with: Recipe, size: geo.Size | None = None) -> torch.Tensor:
    return read_image(path, replace(made_with.decoding, size=size or made_with.size))


def difference(a: torch.Tensor, b: torch.Tensor) -> tuple[float, float]:
    """Mean and 99th percentile of the absolute difference, of 255."""
    off = (a.int() - b.int()).abs().float().flatten()
    return off.mean().item(), np.percentile(off.numpy(), 99).item()


@pytest.mark.parametrize("file_format", ["raw", "png"])
@pytest.mark.parametrize("geometry", ["cover", "paper"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_stored_is_what_would_be_read(tmp_path, photos, file_format, geometry, channels):
    made_with = recipe(size=(480, 640), geometry=geometry, channels=channels, file_format=file_format)
    photo = photos / "Animal/canyon-wren.jpg"
    Image.open(photo).resize((900, 777)).save(tmp_path / "odd.png")
    store = make([photo, tmp_path / "odd.png"], tmp_path / "store", made_with)
    reader = store.reader(store.decoding)
    assert reader.shape == (480, 640, channels)
    for path, item in zip(store.catalogue().train.paths, store.items, strict=True):
        want = direct(item.source, made_with)
        assert torch.equal(reader(path), want)
        place = np.full(reader.shape, 7, np.uint8)
        reader.into(path, place)
        assert np.array_equal(place, want.permute(1, 2, 0))


def test_jpeg_is_near(tmp_path, photos):
    made_with = recipe(size=(1000, 1000), file_format="jpeg", quality=95)
    store = make(sorted(photos.rglob("*.jpg"))[:2], tmp_path / "store", made_with)
    reader = store.reader(store.decoding)
    for path, item in zip(store.catalogue().train.paths, store.items, strict=True):
        mean, p99 = difference(reader(path), direct(item.source, made_with))
        assert mean <= 2
        assert p99 <= 8


@pytest.mark.parametrize("geometry", ["cover", "paper"])
@pytest.mark.parametrize("target", [(512, 512), (300, 300), (200, 200)])
def test_a_lower_resolution_is_derived(tmp_path, photos, geometry, target):
    made_with = recipe(size=(1024, 1024), geometry=geometry)
    store = make(sorted(photos.rglob("*.jpg"))[:2], tmp_path / "store", made_with)
    reader = store.reader(replace(store.decoding, size=target))
    assert reader.shape == (*target, 3)
    for path, item in zip(store.catalogue().train.paths, store.items, strict=True):
        mean, p99 = difference(reader(path), direct(item.source, made_with, target))
        assert mean <= 1
        assert p99 <= 6


def test_of_the_papers_geometry_lower_resolutions_are_cut_out_exactly():
    # Twice the resolution, halved: a lower resolution shows the middle at the same scale.
    assert derive((8000, 9000), (4000, 4000), (2000, 2000), "paper") == (1000, 1000, 2000, 2000)
    # An image of the store's own scale, of which the lower resolution would show twice its side.
    assert derive((1000, 1000), (1000, 1000), (900, 900), "paper") == (50, 50, 900, 900)
    assert derive((1000, 1000), (1000, 1000), (500, 500), "paper") == (0, 0, 1000, 1000)
    assert derive((1000, 1000), (1000, 1000), (400, 400), "paper") == (100, 100, 800, 800)
    assert derive((600, 600), (1000, 1000), (500, 500), "paper") == (0, 0, 1000, 1000)


def test_what_cannot_be_derived_is_refused(tmp_path, photos):
    store = make([photos / "Animal/canyon-wren.jpg"], tmp_path / "store", recipe(size=(512, 512)))
    for size in ((513, 513), (1024, 1024), (512, 1024), (256, 512)):
        with pytest.raises(ValueError, match=r"store holds 512x512 images, of which data\.resolution"):
            store.reader(replace(store.decoding, size=size))
    with pytest.raises(ValueError, match=r"prepared with data\.geometry=cover, not paper"):
        store.reader(replace(store.decoding, geometry="paper"))


def test_a_store_that_is_none_or_not_whole_is_refused(tmp_path, photos):
    with pytest.raises(ValueError, match=r"is not a prepared store: there is no store\.json"):
        Store(tmp_path)
    root = tmp_path / "store"
    store = make([photos / "Animal/canyon-wren.jpg"], root, recipe())
    item = root / store.items[0].file
    whole = item.read_bytes()
    item.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"\.npy is missing or cut off"):
        Store(root)
    item.unlink()
    with pytest.raises(ValueError, match=r"\.npy is missing or cut off"):
        Store(root)
    item.write_bytes(whole)
    manifest = json.loads((root / "store.json").read_text())
    for change, message in (
        ({"complete": False}, "is not complete: task=prepare was interrupted"),
        ({"version": 99}, "is of version 99, this program reads 2"),
    ):
        (root / "store.json").write_text(json.dumps(manifest | change))
        with pytest.raises(ValueError, match=message):
            Store(root)
    (root / "store.json").write_text(json.dumps(manifest)[:-20])
    with pytest.raises(ValueError, match=r"store\.json is damaged"):
        Store(root)


def test_an_item_that_is_cut_off_while_training_is_named(tmp_path, photos):
    store = make([photos / "Animal/canyon-wren.jpg"], tmp_path / "store", recipe())
    reader: StoreReader = store.reader(store.decoding)
    [path] = store.catalogue().train.paths
    Path(path).write_bytes(Path(path).read_bytes()[:500])
    with pytest.raises(UnreadableImageError, match=r"\.npy: .*; prepare the store again"):
        reader.into(path, np.empty(reader.shape, np.uint8))
    Path(path).unlink()
    with pytest.raises(UnreadableImageError, match=r"No such file.*; prepare the store again"):
        reader.into(path, np.empty(reader.shape, np.uint8))


def test_raw_items_are_numpys(tmp_path, photos):
    made_with = recipe()
    store = make([photos / "Animal/canyon-wren.jpg"], tmp_path / "store", made_with)
    [path] = store.catalogue().train.paths
    want = direct(store.items[0].source, made_with).permute(1, 2, 0).numpy()
    assert np.array_equal(np.load(path), want)
