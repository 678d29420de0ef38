"""From files of 8000 px to the network: ours against the plain pipeline, and a store against memory.

plain: Pillow, centre crop, torchvision's resize, float, normalised. direct: our reader, from the same
file to uint8 (normalising is the network's first step). store: a raw item, read warm to where
the batch wants it, every byte; cold: with the file dropped from the page cache before; png, jpeg: the
store's other formats. memcpy: the same bytes copied in memory. Then whole epochs of training, of one
image a step, from the store with one worker and from batches that lie in memory; the loader alone,
beside LitData's over the same pixels where that is installed; and preparing with one process and with two.
"""

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

from hct_lightning.benchmarks.baselines import litdata_loading, plain_reading
from hct_lightning.benchmarks.data import sides
from hct_lightning.benchmarks.data.files import make_files
from hct_lightning.benchmarks.harness.interleave import interleave, paired_ratio
from hct_lightning.benchmarks.harness.side import process


def benchmark(
    *, photos: str, source_size: int, resolution: int, images: int, warmup: int, rounds: int
) -> dict[str, Any]:
    """Measures and gives the ratios below and a row per side.

    direct_png, direct_jpeg, store, store_cold: plain / ours (the store's against plain PNG).
    store_vs_memcpy: store / memcpy. wait_fraction: of the epoch from the store, spent waiting.
    epoch_vs_resident: epoch from the store / from memory. images_per_s_*: the loader alone.
    prepare_2_workers: one process / two. loader_vs_litdata: LitData's loader / ours, one worker each.
    """
    with tempfile.TemporaryDirectory() as home:
        make_files(Path(photos), Path(home), source_size=source_size, images=images, resolution=resolution)
        measured = {}
        for group in (reading(Path(home), source_size, resolution), training(Path(home)), preparing(home, resolution)):
            measured |= interleave(group, warmup=warmup, rounds=rounds)

    def ratio(slow: str, fast: str) -> float:
        return paired_ratio(measured[slow], measured[fast])

    epoch = measured["epoch_store"]
    ratios = {
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
    if "litdata_1" in measured:
        ratios["loader_vs_litdata"] = ratio("litdata_1", "loader_1")
    return {
        "title": f"{source_size} px to {resolution} px",
        "ratios": ratios,
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


def reading(home: Path, source_size: int, resolution: int) -> dict[str, list[str]]:
    """The sides that read one image."""
    files = {"png": home / "0.png", "jpg": home / "images" / "a" / "0.jpg"}
    plain = {"source_size": source_size, "resolution": resolution}
    return {
        **{f"plain_{kind}": process(plain_reading.reading, path=path, **plain) for kind, path in files.items()},
        **{f"direct_{kind}": process(sides.direct, path=path, resolution=resolution) for kind, path in files.items()},
        "store": process(sides.stored, root=home / "store_raw"),
        "store_cold": process(sides.stored, root=home / "store_raw", cold=True),
        "store_png": process(sides.stored, root=home / "store_png"),
        "store_jpeg": process(sides.stored, root=home / "store_jpeg"),
        "memcpy": process(sides.memcpy, resolution=resolution),
    }


def training(home: Path) -> dict[str, list[str]]:
    """The sides that go through an epoch."""
    store = home / "store_raw"
    found = {
        "epoch_resident": process(sides.epoch, root=store, resident=True),
        "epoch_store": process(sides.epoch, root=store, resident=False),
        "loader_1": process(sides.loading, root=store, workers=1),
        "loader_2": process(sides.loading, root=store, workers=2),
    }
    if importlib.util.find_spec("litdata"):
        found["litdata_1"] = process(litdata_loading.loading, root=store, output=home / "litdata", workers=1)
    return found


def preparing(home: str, resolution: int) -> dict[str, list[str]]:
    """The sides that make a store."""
    return {f"prepare_{n}": process(sides.preparing, home=home, resolution=resolution, workers=n) for n in (1, 2)}
