"""How a W&B run begins: its name and group, online or offline, and after the rows that it has already."""

import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import WandbLogger

from hct_lightning.runs.secrets import hide

log = logging.getLogger(__name__)


def connected(build: Callable[..., WandbLogger], run_id: str | None, folder: Path, **options: Any) -> WandbLogger:
    """W&B's logger; offline where W&B can't be reached, for training does not need it.

    Args:
        build: gives it, taking W&B's own options.
        run_id: of the W&B run; the same one goes on when a run is resumed.
        folder: of the run, with what W&B has written of it before.
        options: more of W&B's.

    Raises:
        ValueError: when the run's folder says where W&B sends things, for W&B obeys that where it is called in there.
    """
    for name in ("wandb", ".wandb"):
        if (settings := folder / name / "settings").exists():
            raise ValueError(f"{settings} says where W&B sends what it is given; remove it, or keep it elsewhere")
    options |= {"id": run_id, "resume": "allow"}
    os.environ.setdefault("WANDB_DATA_DIR", str(folder / "wandb"))  # images of tables, until they are sent
    logger = build(**options)
    command = sys.argv[:]
    try:
        sys.argv[1:] = map(hide, command[1:])  # W&B keeps the command line
        _ = logger.experiment  # connects, on rank 0
    except wandb.Error as error:
        log.warning("W&B can't be reached (%s); logging offline, see `wandb sync`", error)
        wandb.teardown()  # its service holds the run's id otherwise
        logger = build(**options, mode="offline")
        _ = logger.experiment
    finally:
        sys.argv[:] = command
    _go_on_behind(logger.experiment, folder)
    return logger


def name_and_group(folder: Path, experiment: str | None) -> dict[str, str]:
    """What tells runs apart in W&B's lists: a name by the run's folder, and the sweep or experiment as a group.

    Where the environment says one, as W&B documents it, that holds.

    Args:
        folder: of the run; that of a sweep's point lies in the sweep's.
        experiment: the choice `+experiment=...`, if there is one.
    """
    sweep = (folder.parent / "multirun.yaml").exists()
    by_time = re.fullmatch(r"\d\d-\d\d-\d\d(-\d+)?", folder.name)
    found = {"name": f"{folder.parent.name}/{folder.name}" if sweep or by_time else folder.name}
    if group := folder.parent.name if sweep else experiment:
        found["group"] = group
    variables = {"name": "WANDB_NAME", "group": "WANDB_RUN_GROUP"}
    return {key: value for key, value in found.items() if not os.environ.get(variables[key])}


def _go_on_behind(experiment: Any, folder: Path) -> None:
    """Lets the rows of a run that goes on offline follow those that it has.

    W&B drops rows whose number is not above the last. Online its server says where a run stands; offline every process
    would count from 0 again. A row takes more than a byte: the size of the earlier files is a number that no row of
    theirs has reached, also where a process was killed.
    """
    if not isinstance(experiment, wandb.Run) or not experiment.offline:
        return
    mine = Path(experiment.dir).parent  # .../wandb/offline-run-<time>-<id>/files
    earlier = [file for file in (folder / "wandb").glob("*run-*/run-*.wandb") if file.parent != mine]
    if written := sum(file.stat().st_size for file in earlier):
        experiment.log({}, step=written)
