"""Measures a checkpoint on the validation images."""

import json
import logging
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.table import Table

from hct_lightning.callbacks.progress import progress_bar
from hct_lightning.cli.recompose import given_options
from hct_lightning.data.datamodule import ImageData
from hct_lightning.machine.devices import choose_devices
from hct_lightning.runs.console import results
from hct_lightning.runs.files import write_whole
from hct_lightning.runs.folder import Run
from hct_lightning.training.answers import write_answers, write_thumbnails
from hct_lightning.training.checkpoints import load_network
from hct_lightning.training.module import ImageClassifier
from hct_lightning.training.trainer import build_trainer

log = logging.getLogger(__name__)


def main(cfg: DictConfig, folder: Path) -> None:
    """`task=validate run=<folder> [ckpt=best|last|<file>]`: results in `<run>/validate/`."""
    run = Run(folder)
    checkpoint = run.checkpoint(cfg.ckpt or "best")
    network, spec = load_network(checkpoint, cfg.safety.allow)
    given = given_options("data")
    fed = {name: value for name, value in spec.options().items() if name not in given}
    data: ImageData = instantiate(cfg.data, **fed, _convert_="all")
    dataset = data.dataset
    spec.check_classes(dataset.classes)
    spec.check_decoding(dataset.decoding, chosen=given)
    log.info("%s on %s, %dx%d", checkpoint, dataset.catalogue.source, *dataset.size)

    module = ImageClassifier(network, classes=dataset.classes)
    trainer = build_trainer(cfg, folder, choose_devices(cfg.trainer.accelerator, 1, 1, 1), callbacks=[progress_bar()])
    trainer.validate(module, datamodule=data, verbose=False)

    assert module.confusion is not None, "it has been validated"
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    result = {
        "checkpoint": str(checkpoint),
        "source": dataset.catalogue.source,
        "images": len(dataset.catalogue.valid),
        "resolution": dataset.size,
        "metrics": metrics,
        "classes": dataset.classes,
        "confusion": module.confusion.tolist(),
    }
    if trainer.is_global_zero:
        (folder / "validate").mkdir(exist_ok=True)
        name = checkpoint.stem if checkpoint.parent == folder / "checkpoints" else "metrics"
        out = folder / "validate" / f"{name}.json"
        write_whole(out, json.dumps(result, indent=2) + "\n")
        assert module.answers is not None
        write_answers(out.with_suffix(".csv"), module.answers, dataset.catalogue.valid, dataset.classes)
        write_thumbnails(out.with_suffix(".csv"), dataset.reader)
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
