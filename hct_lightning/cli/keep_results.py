"""Before anything is written: whether an earlier run's results would be replaced."""

import contextlib
import sys
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from hct_lightning.cli.recompose import BEGUN, key_of
from hct_lightning.machine import ranks
from hct_lightning.machine import slurm as job
from hct_lightning.runs.folder import refuse_replacing
from hct_lightning.runs.printable import printable


class KeepResults(Callback):
    """Hydra's hook before its files are written; a new run in the folder of an earlier one ends here."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.run.dir)
        if config.run or job.goes_on():
            return
        if config.task == "fit":
            _keep({folder: list(config.hydra.overrides.task)})
        elif (folder / BEGUN).exists() and (folder / "run.json").exists():
            with open_dict(config):
                config.hydra.output_subdir = None  # `.hydra` there says what the run began with

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Looks at the points that can be told beforehand; the others do it themselves when they begin."""
        sweep = OmegaConf.to_container(config.hydra.sweep, resolve=False)
        if config.task == "fit" and not config.run and sweep["subdir"] == "${hydra.job.num}":  # pyright: ignore
            folder = Path(config.hydra.sweep.dir)
            with contextlib.suppress(HydraException):
                every = enumerate(points(config))
                _keep({folder / str(i): point for i, point in every if not {"run", "task"} & set(map(key_of, point))})


def points(config: DictConfig) -> list[list[str]]:
    """The options of each point of a sweep, in Hydra's order.

    Raises:
        HydraException: where only Hydra itself can tell, as for `glob(*)`.
    """
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    parsed = OverridesParser.create().parse_overrides([*params, *config.hydra.overrides.task])
    every = [point for batch in BasicSweeper.split_arguments(parsed, None) for point in batch]
    return [[override for override in point if not key_of(override).startswith("hydra.")] for point in every]


def _keep(begin: dict[Path, list[str]]) -> None:
    try:
        for folder, overrides in begin.items():
            refuse_replacing(folder.absolute(), overrides)
    except ValueError as error:
        sys.exit(printable(f"error: {error}") if ranks.is_rank_zero() else 1)
