"""Measures a checkpoint on the validation images."""

import json
import logging
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.table import Table

from hct_lightning.callbacks.progress import progress_bar
from hct_lightning.callbacks.skipped_images import SkippedImages
from hct_lightning.callbacks.watch_ranks import WatchRanks
from hct_lightning.cli.plain import plain
from hct_lightning.cli.recompose import given_options
from hct_lightning.data.datamodule import ImageData
from hct_lightning.machine.devices import choose_devices
from hct_lightning.machine.ranks import from_rank_zero, is_rank_zero
from hct_lightning.machine.runtime import resolve_precision
from hct_lightning.runs.console import results
from hct_lightning.runs.files import write_whole
from hct_lightning.runs.folder import Run
from hct_lightning.training.checkpoints import load_network
from hct_lightning.training.inference_memory import images_at_a_time
from hct_lightning.training.module import ImageClassifier
from hct_lightning.training.trainer import build_trainer

log = logging.getLogger(__name__)


def main(cfg: DictConfig, folder: Path) -> None:
    """`task=validate run=<folder> [ckpt=best|last|<file>]`: results in `<run>/validate/`."""
    run = Run(folder, writes=is_rank_zero())
    checkpoint = run.checkpoint(cfg.ckpt or "best")
    network, spec = load_network(checkpoint, cfg.safety.allow)
    given = given_options(cfg, "data", *spec.unsaid)
    spec.check_normalisation(given)
    fed = {name: value for name, value in spec.options().items() if name not in given}
    data: ImageData = instantiate(cfg.data, **fed, _convert_="all")
    dataset = data.dataset
    spec.check_classes(dataset.classes)
    spec.check_decoding(dataset.decoding, chosen=given)
    log.info("%s on %s, %dx%d", checkpoint, dataset.catalogue.source, *dataset.size)

    asked = plain(cfg.trainer)["devices"]
    devices = choose_devices(cfg.trainer.accelerator, asked, cfg.trainer.num_nodes, data.batch_size)
    precision = resolve_precision(cfg.trainer.precision, devices.accelerator)

    def batch() -> dict[str, Any]:
        images = images_at_a_time(
            devices.of_rank_zero,
            batch_size=data.batch_size,
            micro_batches=cfg.micro_batches,
            ranks_here=devices.ranks_here,
            build=spec.build,
            channels=dataset.decoding.channels,
            size=dataset.size,
            precision=precision,
        )
        return {"images": images}

    data.batch_size = from_rank_zero("batch", batch, num_nodes=devices.num_nodes)["images"]
    module = ImageClassifier(network, classes=dataset.classes)
    callbacks = [progress_bar(), WatchRanks(records=False), SkippedImages("validate/skipped.csv")]
    trainer = build_trainer(cfg, folder, devices, callbacks=callbacks)
    log.info("on %s x %d, %s, %d at a time", devices.accelerator, trainer.world_size, precision, data.batch_size)
    with run.together():
        trainer.validate(module, datamodule=data, verbose=False)
    if trainer.is_global_zero:
        assert module.confusion is not None, "it has been validated"
        counted = int(module.confusion.sum())
        result = {
            "checkpoint": str(checkpoint),
            "source": dataset.catalogue.source,
            "images": counted,
            "skipped": len(dataset.catalogue.valid) - counted,
            "resolution": dataset.size,
            "metrics": {name: value.item() for name, value in trainer.callback_metrics.items()},
            "classes": dataset.classes,
            "confusion": module.confusion.tolist(),
        }
        name = checkpoint.stem if checkpoint.parent == folder / "checkpoints" else "metrics"
        out = folder / "validate" / f"{name}.json"
        out.parent.mkdir(exist_ok=True)
        write_whole(out, json.dumps(result, indent=2) + "\n")
        show(result, out)


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
    console.print(str(out), soft_wrap=True)
