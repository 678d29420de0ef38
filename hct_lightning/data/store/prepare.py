"""From a source to a store: every image read once, brought to its size, and written whole.

Each item is written under another name and renamed, then noted in `items.jsonl`; what isn't noted is made
again. So it may be killed at any moment, and the next call goes on. No item holds a time or a name of the
machine: the finished store is the same, byte for byte, however often the work was interrupted.
"""

import fcntl
import hashlib
import json
import logging
import math
import multiprocessing
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from hct_lightning.data.catalogue import SIDES, Catalogue
from hct_lightning.data.reading import geometry as geo
from hct_lightning.data.reading.image import UnreadableImageError, probe, read_image
from hct_lightning.data.reading.vips import libvips
from hct_lightning.data.store.format import VERSION, Item, Recipe, item_file, read_manifest, write_item
from hct_lightning.machine.pool import mapped
from hct_lightning.runs.files import open_whole, write_whole

log = logging.getLogger(__name__)

_KEEP_FREE = 2**28  # bytes of the disk that are left alone
_GOLDEN = (5**0.5 - 1) / 2  # its multiples, modulo 1, fill the range evenly from the first on


class _Job(NamedTuple):
    """An item that is to be made: of the image `path`, to the file `file` of the store at `root`."""

    split: str
    label: str
    path: str
    file: str
    root: Path
    recipe: Recipe


def prepare(
    found: Catalogue,
    recipe: Recipe,
    root: Path,
    *,
    workers: int,
    skip_unreadable: bool,
    part: bool = False,
    progress: Callable[[Iterable[Item], int], Iterable[Item]],
) -> dict[str, str]:
    """Makes, or goes on with, the store at `root`.

    Args:
        found: the images.
        recipe: what becomes of them.
        root: folder of the store; made when absent.
        workers: processes.
        skip_unreadable: leaves unreadable images out; otherwise they end the work when all the
            others are done.
        part: whether the data set has more images than these, which a store that is there then keeps from being replaced.
        progress: wraps the items as they are made, given their number, in a progress bar.

    Returns:
        The reason for every unreadable file, in the order of their names.

    Raises:
        ValueError: when another store is there.
        OSError: when the disk is too small.
    """
    root.mkdir(parents=True, exist_ok=True)
    with _alone(root):
        manifest = {
            "version": VERSION,
            "complete": False,
            "source": found.source,
            "classes": list(found.classes),
            "notes": list(found.notes),
            "recipe": recipe.as_json(),
        }
        done = _begin(root, manifest)
        jobs, items, order = [], {}, []
        labels: dict[str, str] = {}  # by file, in small letters: some disks do not tell them from large ones
        for split, images in found.splits.items():
            for i, (path, label) in enumerate(zip(images.paths, images.labels, strict=True)):
                name = found.classes[label]
                file = item_file(split, name, path, recipe.format)
                if labels.setdefault(file.casefold(), name) != name:  # a source may name an image for two classes
                    file = item_file(split, name, path, recipe.format, apart=True)
                order.append((file, images.tags_of(i)))
                if file in items:  # a table may name an image twice
                    continue
                item = done.get(file)
                items[file] = item if item and item.label == name and _is_current(item, path, root) else None
                if items[file] is None:
                    jobs.append(_Job(split, name, path, file, root, recipe))
        if part and (more := done.keys() - items.keys()):
            raise ValueError(
                f"the store {root} holds {len(more)} images that are not among these {len(items)}, and they would be "
                "removed; give another prepare.output, or leave out data.limit and data.train_fraction"
            )
        unreadable = {}
        with (
            (root / "items.jsonl").open("a", encoding="utf-8") as journal,
            closing(_make(_spread(jobs), workers, root, unreadable)) as made,  # stops the workers at once
        ):
            for item in progress(made, len(jobs)):
                items[item.file] = item
                journal.write(json.dumps(item._asdict()) + "\n")
                journal.flush()
        unreadable = dict(sorted(unreadable.items()))
        if unreadable and not skip_unreadable:
            return unreadable
        _remove_others(root, {file for file, item in items.items() if item})
        manifest["complete"] = True
        manifest["items"] = [item._replace(tags=tags)._asdict() for file, tags in order if (item := items[file])]
        write_whole(root / "store.json", json.dumps(manifest, indent=1) + "\n")
        (root / "items.jsonl").unlink()
    return unreadable


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Of processes that prepare one store the first alone goes on; its lock is a file that stays.

    Removed, it would leave whoever has opened it just now with a lock on a file that is gone, beside the next one's.

    Raises:
        ValueError: for the others.
    """
    with (root / ".lock").open("a") as lock:  # a link's file is not emptied
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise ValueError(f"{root} is being prepared by another process") from error
        except OSError as error:
            log.debug("%s: no locks here: %s", root, error)
        yield


def _begin(root: Path, manifest: dict[str, Any]) -> dict[str, Item]:
    """What is already there, by file; from here on the store is not complete.

    Raises:
        ValueError: when the store there was made otherwise, naming what differs.
    """
    for path in root.glob(".*.tmp"):  # of a killed call
        path.unlink()
    earlier = read_manifest(root)
    if earlier is None and {p.name for p in root.iterdir()} - {".lock", "items.jsonl"}:
        raise ValueError(f"{root} is not empty and not a store; give an empty or new folder")
    done = {}
    if earlier:
        made, wanted = _content(earlier), _content(manifest)
        for key in wanted:
            if made[key] != wanted[key]:
                raise ValueError(
                    f"the store {root} was made with {key}={made[key]}, not {wanted[key]}; give another "
                    "prepare.output, or remove that folder"
                )
        done = {item["file"]: Item(**item) for item in earlier.get("items", [])}
    journal = root / "items.jsonl"
    if journal.exists():
        for line in journal.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, TypeError):  # the last line may be cut off
                item = Item(**json.loads(line))
                done[item.file] = item
    # What was found goes to the journal, so that a kill from here on loses nothing.
    text = "".join(json.dumps(item._asdict()) + "\n" for item in done.values())
    write_whole(journal, text)
    write_whole(root / "store.json", json.dumps(manifest, indent=1) + "\n")
    return done


def _content(manifest: dict[str, Any]) -> dict[str, Any]:
    """What decides which items there are, and their bytes; a limit on the sources does not."""
    recipe = manifest["recipe"]
    names = {"source": manifest["source"], "classes": manifest["classes"]}
    return {**recipe["decoding"], **recipe, **names, "max_pixels": None, "decoding": None}


def _is_current(item: Item, path: str, root: Path) -> bool:
    """Whether the item is there as a whole, and its source has not changed since."""
    try:
        made, source = (root / item.file).stat(), os.stat(path)
    except OSError:
        return False
    return (made.st_size, source.st_size, source.st_mtime_ns) == (
        item.bytes,
        item.source_bytes,
        item.source_mtime_ns,
    )


def _spread(jobs: list[_Job]) -> list[_Job]:
    """The jobs with the formats, and small and large files, by turns: what is done tells how long the rest will take."""
    by_kind = sorted(jobs, key=lambda job: (Path(job.path).suffix.lower(), _bytes_of(job.path)))
    return [by_kind[i] for i in sorted(range(len(jobs)), key=lambda i: i * _GOLDEN % 1)]


def _bytes_of(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # said by the worker that tries to read it
        return 0


def _make(jobs: list[_Job], workers: int, root: Path, unreadable: dict[str, str]) -> Generator[Item, None, None]:
    """Makes the items, yields each when it is whole, and collects what can't be read."""
    if not jobs:
        return
    recipe = jobs[0].recipe
    if recipe.format == "raw":  # whose size is known before
        _check_space(root, len(jobs) * math.prod(recipe.size) * recipe.decoding.channels)
    size = count = 0
    # Not forked from here: threads of decoders that this process has used would be missing there.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    try:
        with mapped(_convert, jobs, workers, context=context, start=_begin_worker) as results:
            for job, made in zip(jobs, results, strict=True):
                if isinstance(made, str):
                    unreadable[job.path] = made
                    continue
                size += made.bytes
                count += 1
                yield made
                if count == min(2 * workers, len(jobs)):
                    left = len(jobs) - count - len(unreadable)
                    log.info("the store: about %.2f GB more", left * size / count / 1e9)
                    _check_space(root, left * size // count)
    except BrokenProcessPool as error:
        at = count + len(unreadable)
        near = ", ".join(job.path for job in jobs[at : at + workers])
        raise OSError(
            f"a worker was killed (is the memory full?) at one of {near}, or soon after; use fewer "
            "prepare.workers or a lower data.max_pixels; the next call goes on"
        ) from error


def _check_space(root: Path, needed: int) -> None:
    """Raises OSError when the disk has too little room for `needed` bytes."""
    free = shutil.disk_usage(root).free - _KEEP_FREE
    if needed > free:
        raise OSError(
            f"{root}: the store needs about {needed / 1e9:.2f} GB more and the disk has "
            f"{max(0, free) / 1e9:.2f} GB; free some, use prepare.format=jpeg or a lower "
            "data.resolution; the next call goes on"
        )


def _begin_worker() -> None:
    """Begins a worker: all that decoding takes is loaded, so that from the first image on it is as fast as later."""
    os.environ["VIPS_CONCURRENCY"] = "1"  # the processes themselves are what runs at once
    libvips()
    with suppress(ImportError):
        import imagecodecs  # noqa: F401
        import tifffile  # noqa: F401


def _convert(job: _Job) -> Item | str:
    """Makes one item; or says why its source can't be read."""
    split, label, path, file, root, recipe = job
    try:
        before = os.stat(path)
        _, height, width = probe(path, max_pixels=recipe.decoding.max_pixels)  # first: it refuses what has no end
        with open(path, "rb") as source:
            digest = hashlib.file_digest(source, "sha256").hexdigest()
        if recipe.decoding.breast:  # its size is known when it is cropped
            whole = read_image(path, replace(recipe.decoding, size=None))
            height, width = whole.shape[-2:]
            image = geo.apply(whole, recipe.size, recipe.decoding.geometry)
        else:
            image = read_image(path, recipe.decoding)
    except UnreadableImageError as error:
        return str(error)
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    target = root / file
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open_whole(target) as place:
            write_item(image, place, recipe)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{target}: {reason}; mend that and run it again: it goes on") from error
    return Item(
        file,
        split,
        label,
        target.stat().st_size,
        path,
        (height, width),
        before.st_size,
        before.st_mtime_ns,
        digest,
    )


def _remove_others(root: Path, wanted: set[str]) -> None:
    """Removes items whose source is gone, and what killed workers left behind."""
    files = [path for side in SIDES for path in (root / side).rglob("*") if path.is_file()]
    others = [path for path in files if path.relative_to(root).as_posix() not in wanted]
    for path in others:
        path.unlink()
    if others:
        log.info("%d files of the store are of no image of the data set any more: removed", len(others))
