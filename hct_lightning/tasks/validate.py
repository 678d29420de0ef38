"""Measures a checkpoint on the validation images, or on those of another split."""

import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from hydra.utils import instantiate
from lightning import Trainer
from omegaconf import DictConfig
from rich.table import Table
from torch import Tensor

from hct_lightning.callbacks.constant_attention import ConstantAttention
from hct_lightning.callbacks.progress import progress_bar
from hct_lightning.callbacks.skipped_images import SkippedImages
from hct_lightning.callbacks.watch_ranks import WatchRanks
from hct_lightning.cli.plain import plain
from hct_lightning.cli.recompose import given_options
from hct_lightning.data.catalogue import Catalogue, Split
from hct_lightning.data.datamodule import ImageData
from hct_lightning.data.reading.decoding import sizes_in_words
from hct_lightning.data.reading.geometry import NATIVE
from hct_lightning.machine.devices import choose_devices
from hct_lightning.machine.ranks import from_rank_zero, is_rank_zero
from hct_lightning.machine.runtime import resolve_precision
from hct_lightning.models.streaming import StreamsLargeImages
from hct_lightning.models.tiles import Source
from hct_lightning.runs.console import results
from hct_lightning.runs.files import write_whole
from hct_lightning.runs.folder import Run
from hct_lightning.training.answers import write_answers, write_thumbnails
from hct_lightning.training.checkpoints import load_network
from hct_lightning.training.fast_stem import make_fast
from hct_lightning.training.large_images import StreamsInMemory, Way, name_of, way_through
from hct_lightning.training.module import Answers, ImageClassifier
from hct_lightning.training.trainer import build_trainer, check_that_all_is_validated

log = logging.getLogger(__name__)


def main(cfg: DictConfig, folder: Path) -> None:
    """`task=validate run=<folder> [ckpt=best|last|<file>]`: results in `<run>/validate/`.

    `<checkpoint>.json` has the metrics, `<checkpoint>.csv` the answer for each image; of another split than valid
    they are named after that, too.
    """
    check_that_all_is_validated(cfg.trainer.limit_val_batches)  # a run may have been trained with less
    run = Run(folder, writes=is_rank_zero())
    checkpoint = run.checkpoint(cfg.ckpt or "best")
    network, spec = load_network(checkpoint, cfg.safety.allow)
    given = given_options(cfg, "data", *spec.unsaid)
    spec.check_normalisation(given)
    attention = ConstantAttention(network) if cfg.validate.constant_attention else None
    fed = {name: value for name, value in spec.options().items() if name not in given}
    data: ImageData = instantiate(cfg.data, **fed, _convert_="all")
    dataset = data.dataset
    side = cfg.validate.split
    by = plain(cfg.validate)["by"] or []
    by = [str(column) for column in (by if isinstance(by, list) else [by])]
    split, data.measured = chosen_split(dataset.catalogue, side, by), side
    spec.check_classes(dataset.classes)
    spec.check_decoding(dataset.decoding, chosen=given)
    log.info("%s on %s, images %s", checkpoint, dataset.catalogue.source, sizes_in_words(dataset.decoding))

    asked = plain(cfg.trainer)["devices"]
    devices = choose_devices(cfg.trainer.accelerator, asked, cfg.trainer.num_nodes, data.batch_size)
    precision = resolve_precision(cfg.trainer.precision, devices.accelerator)

    def decide() -> dict[str, Any]:
        return way_through(
            dataset.reader,
            devices.of_rank_zero,
            max_memory_gb=cfg.validate.max_memory_gb,
            batch_size=data.batch_size,
            micro_batches=cfg.micro_batches,
            ranks_here=devices.ranks_here,
            build=spec.build,
            precision=precision,
        )._asdict()

    way = Way(**from_rank_zero("batch", decide, num_nodes=devices.num_nodes))
    data.batch_size = way.batch
    data.read_by_region(way.most_pixels)
    compiles = cfg.compile and not attention  # which looks into the network as it is
    make_fast(network, devices.accelerator, compiles=compiles)
    stream = refuse_streaming if attention else StreamsInMemory(network, way.room)
    either = StreamsLargeImages(network, way.most_pixels, stream)
    module = ImageClassifier(either, classes=dataset.classes)
    callbacks = [progress_bar(), WatchRanks(records=False), SkippedImages("validate/skipped.csv")]
    callbacks += [attention] if attention else []
    trainer = build_trainer(plain(cfg.trainer), folder, devices, callbacks=callbacks)
    log.info("on %s x %d, %s, %d at a time", devices.accelerator, trainer.world_size, precision, data.batch_size)
    with run.together():
        trainer.validate(module, datamodule=data, verbose=False)
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        constants = with_constants(trainer, module, data, attention) if attention else None
    if trainer.is_global_zero:
        assert module.confusion is not None, "it has been validated"
        assert module.answers is not None, "it has been validated"
        rows = answered(split, module.answers, dataset.classes)
        result = {
            "checkpoint": str(checkpoint),
            "source": dataset.catalogue.source,
            "split": side,
            "images": len(rows),
            "skipped": len(split) - len(rows),
            "resolution": dataset.decoding.size or NATIVE,
            "metrics": metrics,
            "classes": dataset.classes,
            "confusion": module.confusion.tolist(),
            "by": {column: accuracy_by(column, rows) for column in by},
            "constant_attention": constants,
        }
        name = checkpoint.stem if checkpoint.parent == folder / "checkpoints" else "metrics"
        out = folder / "validate" / f"{name if side == 'valid' else f'{name}-{side}'}.json"
        out.parent.mkdir(exist_ok=True)
        write_whole(out, json.dumps(result, indent=2) + "\n")
        write_answers(out.with_suffix(".csv"), module.answers, split, dataset.classes)
        write_thumbnails(out.with_suffix(".csv"), dataset.reader)
        show(result, out)


def chosen_split(catalogue: Catalogue, side: str, by: Sequence[str]) -> Split:
    """The split to measure.

    Raises:
        ValueError: when there is none of that name, or it lacks one of the columns `by`.
    """
    if side not in catalogue.splits:
        raise ValueError(f"validate.split={side}: {catalogue.source} has {', '.join(catalogue.splits)}")
    split = catalogue.splits[side]
    if unknown := [column for column in by if column not in split.tags]:
        known = ", ".join(split.tags) or "none; data=csv takes a table with more columns than path, label and split"
        raise ValueError(f"validate.by={','.join(unknown)}: the columns of {catalogue.source} are {known}")
    return split


class Judged(NamedTuple):
    """An image's label, the class that the network says, and what a table says of it, by column."""

    label: str
    answer: str
    tags: Mapping[str, str]


def answered(split: Split, answers: Answers, classes: Sequence[str]) -> list[Judged]:
    """Of each image what was said of it."""
    pairs = zip(map(int, answers.index), map(int, answers.logits.argmax(dim=1)), strict=True)
    return [Judged(classes[split.labels[i]], classes[winner], split.tags_of(i)) for i, winner in pairs]


def accuracy_by(column: str, rows: Sequence[Judged]) -> dict[str, Any]:
    """Accuracy for each label and value of a column.

    Returns:
        `parts`: the figures of each; `mean`: over the labels, of the mean over the values of each, so that
        neither a large class nor a large group counts more.
    """
    right = defaultdict(list)
    for row in rows:
        right[row.label, row.tags[column]].append(row.answer == row.label)
    parts = [
        {"label": label, "value": value, "images": len(hits), "accuracy": mean(hits)}
        for (label, value), hits in sorted(right.items())
    ]
    of_label = defaultdict(list)
    for part in parts:
        of_label[part["label"]].append(part["accuracy"])
    return {"mean": mean(mean(accuracies) for accuracies in of_label.values()), "parts": parts}


def refuse_streaming(source: Source) -> Tensor:
    """Stands where images are streamed, which calls attention part by part.

    Raises:
        ValueError: always.
    """
    height, width, _ = source.shape
    raise ValueError(
        f"validate.constant_attention=true takes images that fit the memory; {name_of(source) or 'an image'} of "
        f"{width}x{height} pixels does not: raise validate.max_memory_gb, or give a smaller data.resolution"
    )


def with_constants(
    trainer: Trainer, module: ImageClassifier, data: ImageData, attention: ConstantAttention
) -> dict[str, Any]:
    """Validates again, with constants in the place of what attention gives.

    Returns:
        `blocks`: of each the share of the variance between images, the rest being between positions of an image;
        `accuracy`; `same_answers`: the share of images of which the same class is said.
    """
    log.info("once more with a constant in the place of what attention gives")
    again = ImageClassifier(module.network, classes=module.classes)
    trainer.validate(again, datamodule=data, verbose=False)
    assert module.answers is not None, "it has been validated"
    assert again.answers is not None, "it has been validated"
    own, said = (answers.logits.argmax(dim=1) for answers in (module.answers, again.answers))
    spread = {name: found.share_between_images for name, found in attention.spread.items()}
    return {
        "blocks": [{"name": name, "between_images": share} for name, share in spread.items()],
        "accuracy": (said == again.answers.labels).double().mean().item(),
        "same_answers": (said == own).double().mean().item(),
    }


def show(result: dict, out: Path) -> None:
    console = results()
    metrics = Table("metric", "value", title=f"{result['images']} images", title_justify="left")
    for name, value in sorted(result["metrics"].items()):
        metrics.add_row(name.removeprefix("val/").replace("_", " "), f"{value:.4f}")
    confusion = Table("true \\ predicted", *result["classes"], title="Confusion", title_justify="left")
    for name, row in zip(result["classes"], result["confusion"], strict=True):
        confusion.add_row(name, *(str(count) for count in row))
    console.print(metrics)
    console.print(confusion)
    for column, found in result["by"].items():
        parts = Table("label", column, "images", "accuracy", title=f"By {column}", title_justify="left")
        for part in found["parts"]:
            parts.add_row(part["label"], part["value"], str(part["images"]), f"{part['accuracy']:.4f}")
        parts.add_row("all", "mean of the labels' means", "", f"{found['mean']:.4f}")
        console.print(parts)
    if found := result["constant_attention"]:
        for table in tables_of_attention(found, result["metrics"]["val/accuracy"]):
            console.print(table)
    console.print(str(out), soft_wrap=True)


def tables_of_attention(found: dict[str, Any], accuracy: float) -> tuple[Table, Table]:
    """Of what `with_constants` has found; `accuracy` is the network's own."""
    spread = Table("attention", "between images", "between positions of an image", title_justify="left")
    spread.title = "Variance of what attention gives"
    for block in found["blocks"]:
        share = block["between_images"]
        shares = ("", "") if share is None else (f"{share:.4f}", f"{1 - share:.4f}")
        spread.add_row(block["name"], *shares)
    answers = Table("attention", "accuracy", "same answers", title="With a constant in its place", title_justify="left")
    answers.add_row("its own", f"{accuracy:.4f}", "")
    answers.add_row("a constant", f"{found['accuracy']:.4f}", f"{found['same_answers']:.4f}")
    return spread, answers
