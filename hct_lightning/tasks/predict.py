"""Classes and probabilities of new images."""

import glob
import logging
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import cast

import torch
from omegaconf import DictConfig, OmegaConf
from rich.table import Table
from torch.utils.data import BatchSampler

from hct_lightning.callbacks.progress import progress_bar
from hct_lightning.cli.plain import plain
from hct_lightning.cli.recompose import given_options
from hct_lightning.data.feeding.loader import Images, Loader, auto_workers
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.geometry import as_size
from hct_lightning.data.reading.image import is_image
from hct_lightning.data.reading.readers import FileReader
from hct_lightning.machine.devices import choose_devices
from hct_lightning.runs.console import on_terminal, results
from hct_lightning.runs.files import csv_text, write_whole
from hct_lightning.runs.folder import Run
from hct_lightning.training.checkpoints import load_network
from hct_lightning.training.module import ImageClassifier
from hct_lightning.training.trainer import build_trainer

log = logging.getLogger(__name__)


def main(cfg: DictConfig, folder: Path) -> None:
    """`task=predict run=<folder> predict.input=<file, folder or glob>`.

    A table on the terminal (CSV when standard output is a pipe), and a CSV file.
    """
    if OmegaConf.is_missing(cfg.predict, "input"):
        raise ValueError("predict.input is not set; give predict.input=<image, folder or glob>")
    run = Run(folder)
    network, spec = load_network(run.checkpoint(cfg.ckpt or "best"), cfg.safety.allow)
    paths = find_images(str(cfg.predict.input))
    decoding = chosen_decoding(cfg, spec.decoding)
    reader = FileReader(decoding)
    log.info("%d image(s) at %dx%d (%s)", len(paths), *reader.shape[:2], decoding.geometry)
    if cfg.compile:
        network.compile(dynamic=False)
    loader = Loader(
        Images(paths, [0] * len(paths), reader),
        BatchSampler(range(len(paths)), cfg.predict.batch_size, drop_last=False),
        num_workers=min(auto_workers(cfg.data.num_workers), len(paths)),
    )
    module = ImageClassifier(network, classes=spec.classes)
    trainer = build_trainer(cfg, folder, choose_devices(cfg.trainer.accelerator, 1, 1, 1), callbacks=[progress_bar()])
    probabilities = torch.cat(cast(list[torch.Tensor], trainer.predict(module, loader)))

    rows = [["path", "class", *(f"p_{name}" for name in spec.classes)]]
    for path, row in zip(paths, probabilities.tolist(), strict=True):
        winner = spec.classes[max(range(len(row)), key=row.__getitem__)]
        rows.append([path, winner, *(f"{p:.6f}" for p in row)])
    text = csv_text(rows)
    out = Path(cfg.predict.output or folder / "predict" / "predictions.csv").expanduser()
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, text)
    if on_terminal(sys.stdout):
        show(paths, probabilities, spec.classes)
    else:
        sys.stdout.write(text)
    log.info("-> %s", out)


def chosen_decoding(cfg: DictConfig, trained: Decoding) -> Decoding:
    """What the network was trained on, with what the command line says of `data` and `predict.resolution` on top."""
    options = plain(cfg.data)
    given = {name: options[name] for name in given_options("data") if options.get(name) is not None}
    size = plain(cfg.predict)["resolution"] or given.get("resolution")
    known = {field.name for field in fields(Decoding)}
    changes = {name: value for name, value in given.items() if name in known}
    return replace(trained, **changes, size=as_size(size) if size else trained.size)


def find_images(pattern: str) -> list[str]:
    """The images behind a file name, a folder (searched recursively) or a glob, sorted.

    Raises:
        FileNotFoundError: when there are none.
    """
    path = Path(pattern).expanduser()
    if path.is_file():
        return [str(path)]  # whatever its name
    found = path.rglob("*") if path.is_dir() else map(Path, glob.glob(str(path), recursive=True))
    images = sorted(str(p) for p in found if p.is_file() and is_image(p))
    if not images:
        raise FileNotFoundError(f"predict.input={pattern}: no image there")
    return images


def show(paths: list[str], probabilities: torch.Tensor, classes: Sequence[str]) -> None:
    table = Table("image", "class", *classes)
    for path, row in zip(paths, probabilities, strict=True):
        table.add_row(path, classes[int(row.argmax())], *(f"{p:.3f}" for p in row.tolist()))
    results().print(table)
