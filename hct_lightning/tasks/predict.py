"""Classes and probabilities of new images."""

import hashlib
import itertools
import logging
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.table import Table
from torch.utils.data import BatchSampler

from hct_lightning.callbacks.progress import progress_bar
from hct_lightning.callbacks.watch_ranks import WatchRanks
from hct_lightning.callbacks.write_predictions import WritePredictions
from hct_lightning.cli.plain import plain
from hct_lightning.cli.recompose import given_options
from hct_lightning.data.feeding.images import Images
from hct_lightning.data.feeding.loader import Loader, auto_workers
from hct_lightning.data.feeding.samplers import EveryImageOnce
from hct_lightning.data.inputs import find_images, skips_unreadable
from hct_lightning.data.reading.decoding import Decoding, padding_note, sizes_in_words
from hct_lightning.data.reading.image import sample_sizes
from hct_lightning.data.reading.readers import FileReader, NativeReader
from hct_lightning.deploy.artifact import digest, read_description
from hct_lightning.machine.devices import Devices, choose_devices
from hct_lightning.machine.ranks import from_rank_zero, is_rank_zero
from hct_lightning.machine.runtime import resolve_precision
from hct_lightning.models.streaming import StreamsLargeImages
from hct_lightning.runs import endings
from hct_lightning.runs.console import on_terminal, results
from hct_lightning.runs.folder import Run
from hct_lightning.runs.predictions import Predictions, whole_rows
from hct_lightning.training.by_artifact import decoding_of, find_artifact, load_for_many, predict_all
from hct_lightning.training.checkpoints import load_network
from hct_lightning.training.fast_stem import make_fast
from hct_lightning.training.first_stages import FirstStages
from hct_lightning.training.kept_map import KeptMap
from hct_lightning.training.large_images import StreamsInMemory, Way, check_background, way_through
from hct_lightning.training.module import ImageClassifier
from hct_lightning.training.trainer import build_trainer

log = logging.getLogger(__name__)

SHOWN = 50  # rows of the table on a terminal


def main(cfg: DictConfig, folder: Path) -> None:
    """`task=predict run=<folder> predict.input=<images>`: a CSV file, which the same command goes on with.

    At the end also a table on the terminal, or the CSV where standard output is a pipe.
    """
    if OmegaConf.is_missing(cfg.predict, "input"):
        raise ValueError("predict.input is not set; give predict.input=<image, folder, glob or list>")
    size = cfg.predict.batch_size
    if size is not None and (not isinstance(size, int) or size < 1):
        raise ValueError(f"predict.batch_size={size}: give a whole number of at least 1, or null for what fits")
    if cfg.predict.artifact:
        by_artifact(cfg, folder)
    else:
        by_checkpoint(cfg, folder)


def by_checkpoint(cfg: DictConfig, folder: Path) -> None:
    """By the network of a checkpoint, on `trainer.devices`."""
    run = Run(folder, writes=is_rank_zero())
    checkpoint = run.checkpoint(cfg.ckpt or "best")
    network, spec = load_network(checkpoint, cfg.safety.allow)
    images = find_images(plain(cfg.predict)["input"], "predict.input")
    skips = skips_unreadable(cfg.data.on_error, images, "predict.input")
    decoding = spec.reading(given_options(cfg, "data", *spec.unsaid), plain(cfg.predict)["resolution"])
    reader = reader_for(images, decoding)
    check_background(cfg.predict.background)
    devices = devices_of(cfg, len(images))
    precision = resolve_precision(cfg.trainer.precision, devices.accelerator)
    made_by = {"checkpoint": digest(checkpoint), "decoding": decoding.as_json(), "precision": precision}
    if cfg.predict.background is not None:
        made_by |= {"background": cfg.predict.background}
    first = None
    if name := cfg.predict.first_stages:
        if devices.accelerator != "cpu":
            raise ValueError(f"predict.first_stages={name} computes on the CPU; give trainer.accelerator=cpu")
        first = FirstStages(find_artifact(folder, str(name), "predict.first_stages"), network)
        made_by |= {"first_stages": first.sha256}
    file = Predictions(
        Path(str(cfg.predict.output or folder / "predict" / "predictions.csv")).expanduser(),
        images,
        spec.classes,
        made_by,
    )

    def begin() -> dict[str, Any]:
        way = way_through(
            reader,
            devices.of_rank_zero,
            max_memory_gb=cfg.predict.max_memory_gb,
            batch_size=min(len(images), cfg.predict.batch_size or cfg.data.batch_size),
            micro_batches=1 if cfg.predict.batch_size else cfg.micro_batches,
            ranks_here=devices.ranks_here,
            build=spec.build,
            precision=precision,
        )
        return {"images": digest_of(images), "done": file.open(), "way": way._asdict()}

    begun = from_rank_zero("predict", begin, num_nodes=devices.num_nodes)
    if begun["images"] != digest_of(images):
        raise ValueError("predict.input holds other images for this rank than for rank 0; were some added just now?")
    way = Way(**begun["way"])
    if begun["done"] < len(images):
        skipped = {} if skips else None
        if isinstance(reader, NativeReader):
            reader = reader.opening(way.most_pixels)
        todo = Images(images[begun["done"] :], [0] * (len(images) - begun["done"]), reader, skipped=skipped)
        callbacks = [progress_bar(), WatchRanks(records=False), WritePredictions(file, todo)]
        trainer = build_trainer(plain(cfg.trainer), folder, devices, callbacks=callbacks)
        log.info(
            "%d images %s on %s x %d, %s, %d at a time",
            *(len(todo), sizes_in_words(decoding)),
            *(devices.accelerator, trainer.world_size, precision, way.batch),
        )
        note_padding(todo.paths, decoding)
        make_fast(network, devices.accelerator, compiles=cfg.compile)
        shard = EveryImageOnce(len(todo), rank=trainer.global_rank, world=trainer.world_size)
        loader = Loader(
            todo,
            BatchSampler(shard, way.batch, drop_last=False),
            num_workers=min(len(todo), auto_workers(cfg.data.num_workers, ranks_here=devices.ranks_here)),
            prefetch_factor=cfg.data.prefetch_factor,
            device=trainer.strategy.root_device,
        )
        with run.together(), saying_how_to_go_on(file, named=bool(cfg.run or cfg.predict.output)):
            streams = StreamsInMemory(
                network,
                way.room,
                background=cfg.predict.background,
                keep=partial(KeptMap.of_image, file.path, file.made_by, rank=trainer.global_rank),
                first=first,
            )
            either = StreamsLargeImages(network, way.most_pixels, streams)
            trainer.predict(ImageClassifier(either, classes=spec.classes), loader, return_predictions=False)
    if is_rank_zero():
        file.finish()
        show(file)


def reader_for(images: Sequence[str], decoding: Decoding) -> FileReader | NativeReader:
    """A single image is decoded by all threads; of several, each by the one that reads it."""
    if decoding.size is None:
        return NativeReader(decoding)
    return FileReader(decoding, threads=torch.get_num_threads() if len(images) == 1 else 1)


def note_padding(paths: Sequence[str], decoding: Decoding) -> None:
    """Says where images are mostly padded."""
    sizes = sample_sizes(paths, max_pixels=decoding.max_pixels) if decoding.size else []
    if note := padding_note(decoding, sizes):
        log.info("  note: %s", note)


def by_artifact(cfg: DictConfig, folder: Path) -> None:
    """By an artifact of the run: one process, on the CPU, as the artifact is made."""
    options = plain(cfg.predict)
    place = find_artifact(folder, str(options["artifact"]))
    size = {"resolution": options["resolution"]} if options["resolution"] else {}
    decoding = decoding_of(read_description(place), given_options(cfg, "data") | size)
    images = find_images(options["input"], "predict.input")
    reader = reader_for(images, decoding)
    skipped = {} if skips_unreadable(cfg.data.on_error, images, "predict.input") else None
    artifact = load_for_many(
        *(place, reader, len(images)),
        threads=cfg.runtime.threads,
        most=options["batch_size"],
        trust=options["trust"],
    )
    file = Predictions(
        Path(str(options["output"] or folder / "predict" / "predictions.csv")).expanduser(),
        images,
        artifact.classes,
        {"artifact": artifact.description["sha256"], "decoding": decoding.as_json()},
    )
    done = file.open()
    todo = Images(images[done:], [0] * (len(images) - done), reader, skipped=skipped)
    log.info(
        "%d images %s by %s on the CPU, %d at a time", len(todo), sizes_in_words(decoding), place, artifact.streams
    )
    with saying_how_to_go_on(file, named=bool(cfg.run or options["output"])):
        predict_all(artifact, todo, file, num_workers=min(len(todo), auto_workers(cfg.data.num_workers)))
    file.finish()
    show(file)


def devices_of(cfg: DictConfig, images: int) -> Devices:
    """What to predict on: `trainer.devices`, but no more ranks than images."""
    asked = plain(cfg.trainer)["devices"]
    asked = min(asked, images) if isinstance(asked, int) else asked
    return choose_devices(cfg.trainer.accelerator, asked, cfg.trainer.num_nodes, cfg.data.batch_size)


def digest_of(images: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(images).encode(errors="surrogateescape")).hexdigest()


@contextmanager
def saying_how_to_go_on(file: Predictions, *, named: bool) -> Iterator[None]:
    """Says, however predicting is interrupted, what is kept and how to go on.

    Args:
        file: that grows.
        named: whether the same command writes the same file again.

    Raises:
        ValueError: when predicting ends before all images are through.
    """

    def say() -> None:
        more = "" if named else f" with predict.output={file.path}"
        log.info("%d of %d images are in %s; the same command%s goes on", file.done, len(file.images), file.path, more)

    endings.before_at_once(say)
    try:
        yield
        if is_rank_zero() and file.done < len(file.images):
            raise ValueError("trainer.fast_dev_run or limit_predict_batches ended it early; predict without them")
    except BaseException:
        say()
        raise


def show(file: Predictions) -> None:
    """The table of the first rows for people, the whole file for pipes; and how many images have no answer."""
    table = Table("image", "class", *file.classes)
    failed = 0
    for i, (row, _) in enumerate(itertools.islice(whole_rows(file.path), 1, None)):
        path, winner, *probabilities, error = row
        failed += bool(error)
        if i < SHOWN:
            name = path.encode(errors="replace").decode()
            numbers = (f"{float(p):.3f}" if p else "" for p in probabilities)
            table.add_row(name, winner or "no answer", *numbers)
    if len(file.images) > SHOWN:
        table.caption = f"and {len(file.images) - SHOWN} more"
    if on_terminal(sys.stdout):
        results().print(table)
    else:
        sys.stdout.flush()
        with file.path.open("rb") as whole:
            shutil.copyfileobj(whole, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    if failed:
        log.warning("%d of %d images have no answer; the column `error` says why", failed, len(file.images))
    log.info("-> %s", file.path)
