"""From files of 8000 px to the network: ours against the plain pipeline, and a store against memory.

plain: Pillow, centre crop, torchvision's resize, float, normalised. direct: our reader, from the same
file to uint8 (normalising is the network's first step). store: a raw item, read warm to where
the batch wants it, every byte; cold: with the file dropped from the page cache before; png, jpeg: the
store's other formats. memcpy: the same
bytes copied in memory. Then whole epochs of training, of one image a step, from the store with one worker and from
batches that lie in memory; the loader alone, beside LitData's over the same pixels where that is
installed; and preparing with one process and with two.
"""

import argparse
import contextlib
import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from hct_lightning.benchmarks.harness.interleave import interleave, paired_ratio
from hct_lightning.benchmarks.harness.side import serve

READING = (
    "plain_png",
    "plain_jpg",
    "direct_png",
    "direct_jpg",
    "store",
    "store_cold",
    "store_png",
    "store_jpeg",
    "memcpy",
)
TRAINING = ("epoch_resident", "epoch_store", "loader_1", "loader_2")
PREPARING = ("prepare_1", "prepare_2")
LITDATA = ("litdata_1",)


def benchmark(
    *,
    photos: str,
    source_size: int = 8000,
    resolution: int = 4000,
    images: int = 4,
    warmup: int = 1,
    rounds: int = 5,
) -> dict[str, Any]:
    """Measures and gives the ratios below and a row per side.

    direct_png, direct_jpeg, store, store_cold: plain / ours (the store's against plain PNG).
    store_vs_memcpy: store / memcpy. wait_fraction: of the epoch from the store, spent waiting.
    epoch_vs_resident: epoch from the store / from memory. images_per_s_*: the loader alone.
    prepare_2_workers: one process / two. loader_vs_litdata: LitData's loader / ours, one worker each.
    """
    with tempfile.TemporaryDirectory() as home:
        _make_files(Path(photos), Path(home), source_size, images, resolution)
        command = [
            sys.executable,
            "-m",
            "hct_lightning.benchmarks.data",
            home,
            str(source_size),
            str(resolution),
        ]
        measured = {}
        litdata = LITDATA if importlib.util.find_spec("litdata") else ()
        for sides in (READING, (*TRAINING, *litdata), PREPARING):
            commands = {side: [*command, side] for side in sides}
            measured |= interleave(commands, warmup=warmup, rounds=rounds)

    def ratio(slow: str, fast: str) -> float:
        return paired_ratio(measured[slow], measured[fast])

    epoch = measured["epoch_store"]
    return {
        "title": f"{source_size} px to {resolution} px",
        "ratios": {
            "direct_png": ratio("plain_png", "direct_png"),
            "direct_jpeg": ratio("plain_jpg", "direct_jpg"),
            "store": ratio("plain_png", "store"),
            "store_cold": ratio("plain_png", "store_cold"),
            "store_vs_memcpy": ratio("store", "memcpy"),
            "wait_fraction": sum(epoch.results) / sum(epoch.seconds),
            "epoch_vs_resident": ratio("epoch_store", "epoch_resident"),
            "images_per_s_1_worker": images / measured["loader_1"].median,
            "images_per_s_2_workers": images / measured["loader_2"].median,
            "prepare_2_workers": ratio("prepare_1", "prepare_2"),
        }
        | ({"loader_vs_litdata": ratio("litdata_1", "loader_1")} if litdata else {}),
        "rows": [
            {
                "side": name,
                "median_s": side.median,
                "fastest_s": min(side.seconds),
                "slowest_s": max(side.seconds),
                "bytes_per_pixel": side.facts.get("bytes_per_pixel", ""),
            }
            for name, side in measured.items()
        ],
    }


def _make_files(photos: Path, home: Path, source_size: int, images: int, resolution: int) -> None:
    """The photographs scaled to `source_size` a side, as PNG and JPEG, and a store of them."""
    from PIL import Image, ImageOps

    found = sorted(photos.rglob("*.jpg"))
    if not found:
        raise ValueError(
            f"benchmark.photos={photos}: no .jpg there; give a folder of photographs, such as "
            "tests/photos of a checkout"
        )
    size = (source_size, source_size)
    for i in range(images):
        with Image.open(found[i % len(found)]) as photo:
            scaled = ImageOps.fit(photo.convert("RGB"), size, Image.Resampling.BICUBIC)
        folder = home / "images" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        scaled.save(home / f"{i}.png")
        scaled.save(folder / f"{i}.jpg", quality=90)
    for form in ("raw", "png", "jpeg"):
        _prepare(home, home / f"store_{form}", resolution, workers=2, form=form)


def _prepare(home: Path, root: Path, resolution: int, workers: int, form: str = "raw") -> None:
    from hct_lightning.data.catalogue import Catalogue, Split
    from hct_lightning.data.reading.decoding import Decoding
    from hct_lightning.data.store.format import Recipe
    from hct_lightning.data.store.prepare import prepare

    paths = sorted(str(path) for path in (home / "images").rglob("*.jpg"))
    split = Split(paths, ["ab".index(Path(path).parent.name) for path in paths])
    decoding = Decoding(channels=3, size=(resolution, resolution), geometry="cover", max_pixels=2**30)
    recipe = Recipe(decoding, form, 95 if form == "jpeg" else None)
    prepare(
        Catalogue("photographs", ("a", "b"), split, Split()),
        recipe,
        root,
        workers=workers,
        skip_unreadable=False,
        progress=lambda items, total: items,
    )


def plain(path: Path, resolution: int, source_size: int) -> None:
    import torch
    from PIL import Image
    from torchvision.transforms import v2

    Image.MAX_IMAGE_PIXELS = None
    pipeline = v2.Compose(
        [
            v2.PILToTensor(),
            v2.CenterCrop(source_size),
            v2.Resize(resolution, antialias=True),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )

    def read() -> None:
        pipeline(Image.open(path).convert("RGB"))

    serve(read)


def direct(path: Path, resolution: int) -> None:
    from hct_lightning.data.reading.decoding import Decoding
    from hct_lightning.data.reading.image import read_image
    from hct_lightning.machine import runtime

    runtime.keep_memory()
    how = Decoding(channels=3, size=(resolution, resolution), geometry="cover", max_pixels=2**30)

    def read() -> None:
        read_image(path, how)

    serve(read)


def store(home: Path, form: str, *, cold: bool = False) -> None:
    import numpy as np

    from hct_lightning.data.store.store import Store

    items = Store(home / f"store_{form}")
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
    import numpy as np

    source = np.random.default_rng(0).integers(0, 256, (resolution, resolution, 3), np.uint8)
    place = np.empty_like(source)
    serve(lambda: np.copyto(place, source))


def loader(home: Path, workers: int) -> None:
    from hct_lightning.machine import runtime

    runtime.keep_memory()
    batches = _loader(home, workers)

    def read() -> None:
        for _ in batches:
            pass

    serve(read)


def _loader(home: Path, workers: int) -> Any:
    from hct_lightning.data.feeding.loader import Images, Loader
    from hct_lightning.data.store.store import Store

    items = Store(home / "store_raw")
    split = items.catalogue().train
    reader = items.reader(items.decoding)
    images = Images(split.paths, split.labels, reader)
    return Loader(images, [[i] for i in range(len(split))], num_workers=workers)


def litdata_loader(home: Path, workers: int) -> None:
    import litdata
    import numpy as np
    import torch

    folder = home / "litdata"
    items = sorted(str(path) for path in (home / "store_raw").rglob("*.npy"))
    with contextlib.redirect_stdout(sys.stderr):  # standard output answers the benchmark
        litdata.optimize(
            fn=_load_tensor,
            inputs=items,
            output_dir=str(folder),
            chunk_bytes="512MB",
            num_workers=1,
        )
    shape = np.load(items[0], mmap_mode="r").shape
    batches = litdata.StreamingDataLoader(
        litdata.StreamingDataset(str(folder), shuffle=False),
        batch_size=1,
        num_workers=workers,
        persistent_workers=True,
    )

    def read() -> None:
        for images in batches:
            assert isinstance(images, torch.Tensor)
            assert images.shape[1:] == shape

    serve(read)


def _load_tensor(path: str) -> Any:
    import numpy as np
    import torch

    return torch.from_numpy(np.load(path))


def epoch(home: Path, *, resident: bool) -> None:
    from hct_lightning.benchmarks.step import training_step

    step, facts = training_step(("a", "b"))
    batches = _loader(home, 1)
    memory = list(batches) if resident else None

    def work() -> float:
        before = batches.waited_s
        for batch in memory or batches:
            step(batch)
        return batches.waited_s - before

    serve(work, **facts)


def prepare_again(home: Path, resolution: int, workers: int) -> None:
    import shutil

    root = home / f"again-{workers}"

    def work() -> None:
        shutil.rmtree(root, ignore_errors=True)
        _prepare(home, root, resolution, workers)

    serve(work)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("home", type=Path)
    parser.add_argument("source_size", type=int)
    parser.add_argument("resolution", type=int)
    parser.add_argument("side", choices=(*READING, *TRAINING, *PREPARING, *LITDATA))
    given = parser.parse_args()
    home, resolution = given.home, given.resolution
    files = {"png": home / "0.png", "jpg": home / "images" / "a" / "0.jpg"}
    match given.side.split("_"):
        case ["plain", suffix]:
            plain(files[suffix], resolution, given.source_size)
        case ["direct", suffix]:
            direct(files[suffix], resolution)
        case ["store", ("png" | "jpeg") as form]:
            store(home, form)
        case ["store", *how]:
            store(home, "raw", cold=bool(how))
        case ["memcpy"]:
            memcpy(resolution)
        case ["loader", workers]:
            loader(home, int(workers))
        case ["litdata", workers]:
            litdata_loader(home, int(workers))
        case ["epoch", how]:
            epoch(home, resident=how == "resident")
        case ["prepare", workers]:
            prepare_again(home, resolution, int(workers))
