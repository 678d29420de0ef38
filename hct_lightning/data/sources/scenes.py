"""Scenes, drawn when they are first asked for."""

import fcntl
import logging
import shutil
from pathlib import Path

from PIL import Image

from hct_lightning.data.catalogue import Catalogue, Split
from hct_lightning.data.sources import drawing
from hct_lightning.machine.pool import mapped
from hct_lightning.machine.runtime import cpu_count
from hct_lightning.runs.console import track
from hct_lightning.runs.files import open_whole

log = logging.getLogger(__name__)

_BYTES_PER_PIXEL = 0.6  # of the JPEG files


def scenes(root: str, *, scene_size: int, scene_seed: int, train: int, valid: int) -> Catalogue:
    """Procedural images of four classes, drawn once and kept as JPEG files (quality 95, full colour) under `root`.

    Args:
        root: holds a folder for each version, size and seed of the drawing.
        scene_size: pixels a side.
        scene_seed: image i is drawn from (scene_seed, i).
        train: number of training images, i from 0.
        valid: number of validation images, i from 1,000,000, so that either can grow.

    Raises:
        ValueError: for scenes that are too small.
        OSError: when the disk is.
    """
    size, seed = scene_size, scene_seed
    if size < 128:
        raise ValueError(f"data.scene_size={size}: scenes are drawn at 128 pixels or more")
    top = Path(root).expanduser().resolve() / f"v{drawing.VERSION}-{size}px-seed{seed}"
    splits, missing = {}, []
    for name, first, count in (("train", 0, train), ("valid", 1_000_000, valid)):
        indices = range(first, first + count)
        labels = [drawing.label(i) for i in indices]
        paths = [top / name / drawing.CLASSES[y] / f"{i}.jpg" for i, y in zip(indices, labels, strict=True)]
        splits[name] = Split([str(path) for path in paths], labels)
        missing += [(seed, i, size, path) for i, path in zip(indices, paths, strict=True) if not path.exists()]
    if missing:
        _draw_missing(top, missing)
    return Catalogue(
        f"scenes (drawn, {size} px, seed {seed}) {top}",
        drawing.CLASSES,
        splits["train"],
        splits["valid"],
    )


def _draw_missing(top: Path, jobs: list[tuple[int, int, int, Path]]) -> None:
    try:
        for folder_ in {path.parent for *_, path in jobs}:
            folder_.mkdir(parents=True, exist_ok=True)
    except PermissionError as error:
        raise PermissionError(
            f"{top}: {len(jobs)} scenes are not drawn yet, and this folder can't be written; give one of your own with "
            "data.root=<folder> or HCT_DATA=<folder>"
        ) from error
    with (top / ".lock").open("w") as lock:
        # Other ranks wait here, and then find the images drawn. Not flock: workers would inherit it.
        fcntl.lockf(lock, fcntl.LOCK_EX)
        jobs = [job for job in jobs if not job[-1].exists()]
        if not jobs:
            return
        size, workers = jobs[0][2], cpu_count()
        needed = len(jobs) * size**2 * _BYTES_PER_PIXEL
        if needed > (free := shutil.disk_usage(top).free):
            raise OSError(
                f"{top}: {len(jobs)} scenes of {size} px take about {needed / 1e9:.1f} GB and the disk has "
                f"{free / 1e9:.1f} GB; set HCT_DATA to a folder on another disk, or use fewer: data.train, data.valid"
            )
        log.info("drawing %d scenes of %d px, about %.1f GB, in %s (once)", len(jobs), size, needed / 1e9, top)
        with mapped(_draw, jobs, workers, chunksize=1 if size > 2000 else 4) as done:
            for _ in track("drawing scenes", done, len(jobs), workers):
                pass


def _draw(job: tuple[int, int, int, Path]) -> None:
    seed, index, size, path = job
    with open_whole(path) as file:
        Image.fromarray(drawing.draw(seed, index, size)).save(file, "jpeg", quality=95, subsampling=0)
