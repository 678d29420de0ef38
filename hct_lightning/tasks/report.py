"""Shows runs and sweeps: a page of HTML, and a summary in Markdown."""

import logging
import shlex
from pathlib import Path

from omegaconf import DictConfig

from hct_lightning.cli.plain import plain
from hct_lightning.report.files import PROGRAM
from hct_lightning.report.write import write_report

log = logging.getLogger(__name__)


def main(cfg: DictConfig, folder: Path) -> None:
    """`task=report run=<folder>`, `task=report report.runs=[a,b]`: `report/report.html` and `report.md`."""
    options = plain(cfg.report)
    folders = [Path(run).expanduser() for run in ([cfg.run] if cfg.run else []) + options["runs"]]
    if not folders:
        raise ValueError("task=report is about runs; give run=<folder>, or report.runs=[<folder>,<folder>]")
    given = [f"run={cfg.run}"] if cfg.run else []
    given += [f"report.runs=[{','.join(options['runs'])}]"] if options["runs"] else []
    given += [f"report.against={options['against']}"] if options["against"] else []
    made_by = shlex.join([*PROGRAM.split(), "task=report", *given])
    page = write_report(folders, folder / "report", made_by=made_by, against=options["against"])
    log.info("-> %s", page.with_suffix(".md"))
    print(page)
