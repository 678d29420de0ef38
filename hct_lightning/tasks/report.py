"""Shows runs and sweeps: a page of HTML, and a summary in Markdown."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from hct_lightning.cli.plain import plain
from hct_lightning.report.write import write_report

log = logging.getLogger(__name__)


def main(cfg: DictConfig, folder: Path) -> None:
    """`task=report run=<folder>`, `task=report report.runs=[a,b]`: `report/report.html` and `report.md`."""
    options = plain(cfg.report)
    more = options["runs"] if isinstance(options["runs"], list) else [options["runs"]]
    folders = [Path(str(run)) for run in (cfg.run, *more) if run is not None]
    if not folders:
        raise ValueError("task=report is about runs; give run=<folder>, or report.runs=[<folder>,<folder>]")
    page = write_report(folders, folder, against=options["against"])
    log.info("-> %s", page.with_suffix(".md"))
    print(page)
