"""Sweeps on this machine: Hydra's multirun with each point in a process of its own.

So a point that runs out of memory ends alone, ranks and W&B start afresh, and a sweep that was
killed goes on: points that are done are left as they are, one that was interrupted is resumed.
"""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from hct_lightning.cli.recompose import key_of, quoted
from hct_lightning.runs import endings, signals
from hct_lightning.runs.folder import Run, is_of, refuse_replacing
from hct_lightning.runs.record import accuracy_of

log = logging.getLogger(__name__)

_OF_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC")


def is_point() -> bool:
    """Whether Hydra's own launcher has called the app for one point of a sweep."""
    hydra = HydraConfig.get()
    return hydra.mode == RunMode.MULTIRUN and hydra.launcher._target_.endswith(".BasicLauncher")


def run_point(cfg: DictConfig, folder: Path) -> float | None:
    """Runs `python -m hct_lightning <overrides>` for a point and gives the best validation accuracy.

    A point that fails is recorded in its `run.json`; the sweep goes on.

    Args:
        cfg: the point's.
        folder: of the point.

    Raises:
        ValueError: when the folder holds the results of other options.
        KeyboardInterrupt: when the point was interrupted.
        Terminated: likewise by SIGTERM.
    """
    overrides = list(HydraConfig.get().overrides.task)
    # Other tasks put their results into the run that they are about.
    new_run = cfg.run is None and (cfg.task == "fit" or cfg.ckpt is None)
    run = Run(folder)
    begun = is_of(run.record, overrides)
    if begun and run.record.get("status") == "completed":
        log.info("done already: %s", folder)
        return accuracy_of(run.record)
    if begun and (folder / "checkpoints" / "last.ckpt").exists():
        # All of them, for not everything is believed that a folder says, but for the weights that it began with.
        command = [*(o for o in overrides if not new_run or key_of(o) != "ckpt"), f"run={quoted(folder)}"]
    else:
        if new_run:
            refuse_replacing(folder, overrides)
        run.update(overrides=overrides, status=None, metrics=None)
        command = [*overrides, *([f"hydra.run.dir={quoted(folder)}"] if new_run else [])]
    child = start_run(command)
    try:
        child.wait()
    except signals.Terminated:
        child.terminate()
        raise
    finally:
        child.wait()
    if child.returncode == endings.INTERRUPTED:
        raise KeyboardInterrupt
    if child.returncode == endings.TERMINATED:
        raise signals.Terminated
    if child.returncode:
        reason = run.record.get("reason") or signals.in_words(child.returncode)
        run.end("failed", reason)
        log.error("failed: %s", reason)
    elif not new_run:
        run.end("completed", None)
    return accuracy_of(run.record)


def start_run(overrides: list[str], *, but: tuple[str, ...] = ()) -> subprocess.Popen:
    """`python -m hct_lightning` in a process that ends with this one and is no rank of its.

    Args:
        overrides: of the run.
        but: beginnings of further variables of the environment that it does not see.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "hct_lightning", *overrides],
        env={name: value for name, value in os.environ.items() if not name.startswith((*_OF_RANKS, *but))},
        stdout=sys.stderr,  # standard output is for the sweep's own results
        preexec_fn=signals.end_with_parent,
    )


class ReportSweep(Callback):
    """When a sweep has ended: its table and figure; exit status 1 when a point has failed."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        from hct_lightning.report import sweep, write  # slow to import

        folder = Path(config.hydra.sweep.dir)
        completed = sweep.report(folder)
        if config.fit.report and (page := write.report_at_end([folder])):
            print(page)
        if not completed:
            sys.exit(1)
