"""Our sides of reading, of training from what is read, and of preparing."""

import os
import shutil
from pathlib import Path

import numpy as np

from hct_lightning.benchmarks.data.files import make_store
from hct_lightning.benchmarks.fit_step import comparable_step
from hct_lightning.benchmarks.harness.side import serve
from hct_lightning.data.feeding.images import Images
from hct_lightning.data.feeding.loader import Loader
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.image import read_image
from hct_lightning.data.store.store import Store
from hct_lightning.machine import runtime


def direct(path: str, resolution: int) -> None:
    """Our reader, from a file to uint8."""
    runtime.keep_memory()
    decoding = Decoding(channels=3, size=(resolution, resolution), geometry="cover", max_pixels=2**30)

    def read() -> None:
        read_image(path, decoding)

    serve(read)


def stored(root: str, cold: bool = False) -> None:
    """An item of a store, every byte; `cold`: dropped from the page cache before."""
    items = Store(Path(root))
    recipe = items.recipe
    reader = items.reader(items.decoding)
    item = items.items[0]
    path = str(items.root / item.file)
    place = np.empty(reader.shape, np.uint8)

    def read() -> None:
        if cold:
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        reader.into(path, place)

    serve(read, bytes_per_pixel=item.bytes / (recipe.size[0] * recipe.size[1]))


def memcpy(resolution: int) -> None:
    """As many bytes as an item has, copied in memory."""
    source = np.random.default_rng(0).integers(0, 256, (resolution, resolution, 3), np.uint8)
    place = np.empty_like(source)
    serve(lambda: np.copyto(place, source))


def loading(root: str, workers: int) -> None:
    """An epoch of the loader alone."""
    runtime.keep_memory()
    batches = _one_by_one(root, workers)

    def read() -> None:
        for _ in batches:
            pass

    serve(read)


def epoch(root: str, resident: bool) -> None:
    """An epoch of training from the store with one worker, or from batches that lie in memory; gives the waiting."""
    step, facts = comparable_step(classes=2)
    batches = _one_by_one(root, 1)
    memory = list(batches) if resident else None

    def work() -> float:
        before = batches.waited_s
        for batch in memory or batches:
            step(batch.images, batch.labels)
        return batches.waited_s - before

    serve(work, **facts)


def preparing(home: str, resolution: int, workers: int) -> None:
    """A raw store made anew."""
    root = Path(home) / f"again-{workers}"

    def work() -> None:
        shutil.rmtree(root, ignore_errors=True)
        make_store(Path(home), root, resolution=resolution, workers=workers)

    serve(work)


def _one_by_one(root: str, workers: int) -> Loader:
    items = Store(Path(root))
    split = items.catalogue().train
    reader = items.reader(items.decoding)
    images = Images(split.paths, split.labels, reader)
    return Loader(images, [[i] for i in range(len(split))], num_workers=workers)
