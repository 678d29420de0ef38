"""Images that the program draws when they are first asked for, and keeps."""

import errno
import fcntl
import logging
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from hct_lightning.data.catalogue import Catalogue, Split
from hct_lightning.machine.pool import mapped
from hct_lightning.machine.runtime import cpu_count
from hct_lightning.runs.console import track
from hct_lightning.runs.files import open_whole

log = logging.getLogger(__name__)


class Drawing(NamedTuple):
    """How images are drawn and written.

    draw: (seed, index, size) -> h w, or h w 3, uint8, h and w at most `size`; the same on every call. A function of a module,
        for other processes call it.
    classes: image i is of the class i modulo their number.
    version: of the drawing: another one for images that come out differently.
    smallest: pixels a side.
    ending: of the files, without a dot.
    options: how Pillow writes them.
    bytes_per_pixel: of the files, about, for each of size x size.
    """

    draw: Callable[[int, int, int], np.ndarray]
    classes: tuple[str, ...]
    version: int
    smallest: int
    ending: str
    options: dict[str, Any]
    bytes_per_pixel: float


class _Job(NamedTuple):
    seed: int
    index: int
    size: int
    path: Path


def drawn(name: str, drawing: Drawing, root: str, *, size: int, seed: int, train: int, valid: int) -> Catalogue:
    """Images drawn once and kept under `root`, in a folder for each version, size and seed.

    Args:
        name: of the source.
        drawing: draws them.
        root: a folder.
        size: pixels a side.
        seed: image i is drawn from (seed, i).
        train: number of training images, i from 0.
        valid: number of validation images, i from 1,000,000, so that either can grow.

    Raises:
        ValueError: for images that are too small.
        OSError: when the disk is.
    """
    if size < drawing.smallest:
        raise ValueError(f"data.scene_size={size}: {name} are drawn at {drawing.smallest} pixels or more")
    classes = drawing.classes
    top = Path(root).expanduser().resolve() / f"v{drawing.version}-{size}px-seed{seed}"
    splits, missing = {}, []
    for side, first, count in (("train", 0, train), ("valid", 1_000_000, valid)):
        indices = range(first, first + count)
        labels = [i % len(classes) for i in indices]
        paths = [top / side / classes[y] / f"{i}.{drawing.ending}" for i, y in zip(indices, labels, strict=True)]
        splits[side] = Split([str(path) for path in paths], labels)
        missing += [_Job(seed, i, size, path) for i, path in zip(indices, paths, strict=True) if not path.exists()]
    if missing:
        _draw_missing(name, drawing, top, missing)
    return Catalogue(f"{name} (drawn, {size} px, seed {seed}) {top}", classes, splits["train"], splits["valid"])


def _draw_missing(name: str, drawing: Drawing, top: Path, jobs: list[_Job]) -> None:
    try:
        for folder_ in {job.path.parent for job in jobs}:
            folder_.mkdir(parents=True, exist_ok=True)
        lock = (top / ".lock").open("w")
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise PermissionError(
            f"{top}: {len(jobs)} {name} are not drawn yet, and this folder can't be written; give one of your own with "
            "data.root=<folder> or HCT_DATA=<folder>"
        ) from error
    with lock:
        with suppress(OSError):  # a disk without locks
            # Other ranks wait here, and then find the images drawn. Not flock: workers would inherit it.
            fcntl.lockf(lock, fcntl.LOCK_EX)
        jobs = [job for job in jobs if not job.path.exists()]
        if not jobs:
            return
        size, workers = jobs[0].size, cpu_count()
        needed = len(jobs) * size**2 * drawing.bytes_per_pixel
        if needed > (free := shutil.disk_usage(top).free):
            raise OSError(
                f"{top}: {len(jobs)} {name} of {size} px take about {needed / 1e9:.1f} GB and the disk has "
                f"{free / 1e9:.1f} GB; set HCT_DATA to a folder on another disk, or use fewer: data.train, data.valid"
            )
        log.info("drawing %d %s of %d px, about %.1f GB, in %s (once)", len(jobs), name, size, needed / 1e9, top)
        with mapped(partial(_draw, drawing), jobs, workers, chunksize=1 if size > 2000 else 4) as done:
            for _ in track(f"drawing {name}", done, len(jobs), workers):
                pass


def _draw(drawing: Drawing, job: _Job) -> None:
    with open_whole(job.path) as file:
        Image.fromarray(drawing.draw(job.seed, job.index, job.size)).save(file, **drawing.options)
