"""Turns a source into a store of crops that training streams at the speed of memory."""

import logging
import re
import shlex
from functools import partial
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from hct_lightning.cli.recompose import quoted
from hct_lightning.data.datamodule import ImageData
from hct_lightning.data.store.format import SUFFIX, Recipe
from hct_lightning.data.store.prepare import prepare
from hct_lightning.data.store.remote import is_url
from hct_lightning.data.store.store import Store
from hct_lightning.machine.runtime import cpu_count
from hct_lightning.report.tables import describe
from hct_lightning.runs.console import track
from hct_lightning.runs.files import csv_text, write_whole

log = logging.getLogger(__name__)


def main(cfg: DictConfig, folder: Path) -> None:
    """`task=prepare data=<set> prepare.output=<folder>`: a store, and the command that uses it."""
    if OmegaConf.is_missing(cfg.prepare, "output"):
        raise ValueError("prepare.output is not set; give prepare.output=<folder for the store>")
    options = cfg.prepare
    if is_url(options.output):
        raise ValueError(
            f"prepare.output={options.output}: give a folder on this machine, and copy it there (with "
            "`aws s3 sync` or the like); data=store reads it from there"
        )
    if options.format not in SUFFIX:
        raise ValueError(f"prepare.format={options.format}: choose {', '.join(SUFFIX)}")
    if not isinstance(options.quality, int) or not 1 <= options.quality <= 100:
        raise ValueError(f"prepare.quality={options.quality}: give a whole number of 1 to 100")
    data: ImageData = instantiate(cfg.data, on_error="skip", _convert_="all")  # all that are unreadable are named
    dataset = data.dataset
    if dataset.catalogue.prepared:
        raise ValueError("data=store is prepared already; give the data set that it came from")
    if dataset.reader.varies:
        raise ValueError("data.resolution=native: the images of a store have one size; give it")
    if options.format != "raw" and dataset.decoding.channels not in (1, 3):
        raise ValueError(f"prepare.format=raw is the one for {dataset.decoding.channels} channels")
    if dataset.decoding.reduce_to:
        raise ValueError(
            f"data.reduce_to={dataset.decoding.reduce_to}: a store holds what is there; leave it out, and give it "
            "when training from the store"
        )
    describe(dataset.summary())
    quality = options.quality if options.format == "jpeg" else None
    recipe = Recipe(dataset.decoding, options.format, quality)
    root = Path(options.output).expanduser().resolve()
    workers, skips = options.workers or cpu_count(), cfg.data.on_error == "skip"
    unreadable = prepare(
        dataset.catalogue,
        recipe,
        root,
        workers=workers,
        skip_unreadable=skips,
        part=any((data.limit, data.limit_valid, data.train_fraction)),
        progress=partial(track, "preparing", workers=workers),
    )
    if unreadable:
        out = folder / "prepare" / "unreadable.csv"
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, csv_text([("path", "reason"), *unreadable.items()]))
        said = "\n  ".join([*unreadable.values()][:20])
        message = f"{len(unreadable)} unreadable images (all listed in {out}):\n  {said}"
        if not skips:
            raise ValueError(f"{message}\nrepair or remove them, or use data.on_error=skip")
        log.warning("left out: %s", message)
    store = Store(root)
    size = sum(item.bytes for item in store.items)
    log.info("%d images, %.2f GB in %s", len(store.items), size / 1e9, root)
    verb = "" if len(dataset.classes) > 1 else "task=pretrain "
    place = root if re.fullmatch(r"[\w/.-]+", str(root)) else quoted(root)
    print(f"python -m hct_lightning {verb}data=store {shlex.quote(f'data.root={place}')}")
