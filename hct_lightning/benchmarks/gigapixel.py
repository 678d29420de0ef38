"""Images larger than memory: HCT tile by tile against HCT on an image that lies in memory.

whole: an image of `resolution` in memory, forward. tiff: a tiled TIFF (JPEG) of `file_resolution`, streamed, reading
and decoding included. made: the same size from a source that costs next to nothing. huge: likewise, of
`huge_resolution`. train: a training step on one image of `train_resolution`, `memory=stream`, without the image's
own bytes on the disk.
"""

import logging
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from hct_lightning.benchmarks.harness.interleave import Measured, interleave
from hct_lightning.benchmarks.harness.side import process, serve
from hct_lightning.data.dataset import IMAGENET_MEAN, IMAGENET_STD
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.regions import open_regions
from hct_lightning.data.reading.vips import libvips
from hct_lightning.machine import runtime
from hct_lightning.models import HCT, FromPixels
from hct_lightning.models.streaming import StreamedHCT
from hct_lightning.models.tiles import Source
from hct_lightning.runs.console import Lines
from hct_lightning.training.fast_stem import with_fast_stem
from hct_lightning.training.memory import STREAM_TILE
from hct_lightning.training.step import AUTOCAST, TrainingStep

log = logging.getLogger(__name__)


def benchmark(
    *,
    photo: str,
    resolution: int,
    file_resolution: int,
    huge_resolution: int,
    train_resolution: int,
    tile: int,
    rounds: int,
) -> dict[str, Any]:
    """Measures and gives ratios and a row per side.

    The ratios: `pixels_per_s_ratio` of made to whole, `pixels_per_s_ratio_from_tiff` of tiff to whole, and the
    processes' peaks in GB (10^9 bytes): `peak_gb_40k` of tiff, `peak_gb_100k` of huge, `peak_gb_train_24k` of train.
    These three are named after the default sizes, and are of the sizes that are given.

    Args:
        photo: the file that the TIFF repeats.
        resolution: side, in pixels, of the image in memory.
        file_resolution: of the TIFF and of the made image.
        huge_resolution: of the largest; 0 leaves it out.
        train_resolution: of the training step; 0 leaves it out.
        tile: what a tile stands for, in pixels.
        rounds: of whole, tiff and made; the fastest counts. The others are run once.
    """
    if not Path(photo).is_file():
        raise ValueError(
            f"benchmark.photo={photo}: no such file here; run it in the checkout, or give another photograph"
        )
    log.info("writing a TIFF of %d px", file_resolution)
    with TemporaryDirectory() as home:
        path = Path(home) / "image.tif"
        write_tiff(photo, path, file_resolution)
        sides = {
            "whole": process(whole, resolution=resolution),
            "tiff": process(streamed, path=str(path), resolution=file_resolution, tile=tile),
            "made": process(streamed, path=None, resolution=file_resolution, tile=tile),
        }
        measured = interleave(sides, warmup=0, rounds=rounds)
    for name, work, side in (("huge", streamed, huge_resolution), ("train", trained, train_resolution)):
        options = {"path": None} if work is streamed else {}
        if side:
            log.info("%s: %d px, once", name, side)
            measured |= interleave({name: process(work, resolution=side, tile=tile, **options)}, warmup=0, rounds=1)
    sizes = {"whole": resolution, "tiff": file_resolution, "made": file_resolution}
    sizes |= {"huge": huge_resolution, "train": train_resolution}
    rows = [row(name, sizes[name], side) for name, side in measured.items()]
    speed = {r["side"]: r["megapixels_per_s"] for r in rows}
    ratios = {
        "pixels_per_s_ratio": speed["made"] / speed["whole"],
        "pixels_per_s_ratio_from_tiff": speed["tiff"] / speed["whole"],
        "peak_gb_40k": measured["tiff"].peak_gib * 2**30 / 1e9,
    }
    for name, key in (("huge", "peak_gb_100k"), ("train", "peak_gb_train_24k")):
        if name in measured:
            ratios[key] = measured[name].peak_gib * 2**30 / 1e9
    return {"title": "Images larger than memory", "ratios": ratios, "rows": rows}


def row(name: str, side: int, measured: Measured) -> dict[str, Any]:
    seconds = min(measured.seconds)
    return {
        "side": name,
        "px": side,
        "seconds": seconds,
        "megapixels_per_s": side**2 / 1e6 / seconds,
        "peak_gib": measured.peak_gib,
        "precision": measured.facts["precision"],
    }


class Repeated:
    """A square image that repeats a texture; reading it is copying."""

    def __init__(self, side: int) -> None:
        self.shape = (side, side, 3)
        self._texture = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), np.uint8)

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        rows = self._texture.take(range(y0, y1), axis=0, mode="wrap")
        return rows.take(range(x0, x1), axis=1, mode="wrap")


def write_tiff(photo: str, path: Path, side: int) -> None:
    """A tiled TIFF of JPEG tiles that repeats a photograph."""
    vips = libvips()
    if vips is None:
        raise ValueError("benchmark=gigapixel takes libvips: pip install 'hct-lightning[data]'")
    image = vips.Image.new_from_file(photo)
    image = image.replicate(-(-side // image.width), -(-side // image.height)).crop(0, 0, side, side)
    image.tiffsave(str(path), tile=True, tile_width=512, tile_height=512, compression="jpeg", bigtiff=True)


def network() -> tuple[FromPixels, str]:
    """An HCT with random weights, set up as `task=predict` runs it, and its precision."""
    runtime.keep_memory()
    made = FromPixels(HCT(), IMAGENET_MEAN, IMAGENET_STD).to(memory_format=torch.channels_last)
    with_fast_stem(made, "cpu")
    return made, runtime.resolve_precision("auto", "cpu")


def whole(resolution: int) -> None:
    made, precision = network()
    made.eval()
    pixels = Repeated(resolution).read(0, resolution, 0, resolution)
    run = partial(_inferred, made, torch.from_numpy(pixels).permute(2, 0, 1)[None], precision)
    run()  # what is compiled for these shapes
    serve(run, precision=precision)


def streamed(path: str | None, resolution: int, tile: int) -> None:
    made, precision = network()
    source: Source = Repeated(resolution)
    if path:
        how = Decoding(channels=3, size=None, geometry="cover", max_pixels=resolution**2)
        source = open_regions(path, how)
    tiles = StreamedHCT(made.eval(), tile=tile, workers=torch.get_num_threads())
    logging.basicConfig(format="%(message)s", level=logging.INFO)  # to standard error, as the program itself

    def run(image: Source) -> None:
        tiles(image, Lines(f"  {resolution} px", "tiles"))

    serve(partial(_inferred, run, source, precision), precision=precision)


def _inferred(run: Any, image: Any, precision: str) -> None:
    dtype = AUTOCAST.get(precision)
    with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype is not None):
        run(image)


def trained(resolution: int, tile: int) -> None:
    made, precision = network()
    made.set_grad_checkpointing()
    made.set_streaming(min(tile, STREAM_TILE), workers=torch.get_num_threads())
    step = TrainingStep(made, precision=precision)
    serve(partial(step, Repeated(resolution), torch.tensor([0])), precision=precision)
