"""The entry point: compose the configuration, check it, call the task.

Nothing heavy is imported before the configuration is composed, so that `--help` and `--cfg job`
answer at once.
"""

import importlib
import logging
import os
import sys
from importlib.resources import files
from pathlib import Path

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import InstantiationException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from hct_lightning import signals, sweep
from hct_lightning.run import RankError, is_interrupt, is_rank_zero, is_termination

log = logging.getLogger(__name__)

MULTIRUN = {"-m", "--multirun"}
GROUPS = ("sweeps",)  # beside those of conf/


class MoreConfigs(SearchPathPlugin):
    """Finds the groups that are folders of their own, and a user's configuration.

    The latter is ~/.config/hct_lightning (say `local/default.yaml` in it).
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for group in GROUPS:
            package = importlib.import_module(f"hct_lightning.{group}")
            search_path.append("hct-groups", f"file://{Path(package.__path__[0]).parent}")
        home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
        folder = Path(home) / "hct_lightning"
        if folder.is_dir():
            search_path.append("hct-user", f"file://{folder}")


def _is_override(arg: str) -> bool:
    return not arg.startswith("-") and ("=" in arg or arg.startswith("~"))


def _key(override: str) -> str:
    """The option that an override on the command line sets: `+experiment=ddp4` -> `experiment`."""
    return override.lstrip("+~").split("=", 1)[0].split("@", 1)[0]


def _still_meant(key: str, given: dict[str, str]) -> bool:
    """Whether an earlier run's override of `key` holds beside what is given now."""
    group, _, option = key.partition(".")
    if key in given or group in ("hydra", "task", "run", "ckpt"):
        return False
    if group in given and option:
        # Another data set has its own options; resolution and the like go on.
        base = files("hct_lightning.conf") / group / "_base.yaml"
        return base.is_file() and option.split(".")[0] in OmegaConf.create(base.read_text())
    return True


def recompose(argv: list[str]) -> list[str]:
    """Expands `run=<folder>` to that run's own overrides, those on the command line winning.

    `ckpt=<file>` inside a run's folder implies the run. Results then go to the run's folder, and
    its `.hydra` is left as it is.

    Raises:
        ValueError: when the folder is not a run.
    """
    given = {_key(arg): arg for arg in argv if _is_override(arg)}
    flags = [arg for arg in argv if not _is_override(arg)]
    value = {key: arg.partition("=")[2].strip("'\"") for key, arg in given.items()}
    run, verb, ckpt = value.get("run"), value.get("task", "fit"), value.get("ckpt")
    if not run and ckpt and verb != "fit":
        holder = Path(ckpt).resolve().parent.parent
        if (holder / ".hydra" / "overrides.yaml").exists():
            run = str(holder)
    if not run or run == "null" or MULTIRUN & set(flags):  # a sweep's points do it themselves
        return argv
    folder = Path(run).expanduser().resolve()
    if (folder / "multirun.yaml").exists():
        begun = OmegaConf.load(folder / "multirun.yaml").hydra.overrides
        del given["run"]
        return [
            *flags,
            "-m",
            *begun.hydra,
            *begun.task,
            *given.values(),
            f'hydra.sweep.dir="{folder}"',
        ]
    recorded = folder / ".hydra" / "overrides.yaml"
    if not recorded.exists():
        raise ValueError(
            f"run={run} is not the folder of an earlier run: there is no {recorded}; "
            "give the folder that holds checkpoints/ and run.json"
        )
    earlier = [
        override
        for override in OmegaConf.to_container(OmegaConf.load(recorded))
        if _still_meant(_key(override), given)
    ]
    given["task"] = f"task={verb}"
    given["run"] = f'run="{folder}"'
    home = [f'hydra.run.dir="{folder}"', "hydra.output_subdir=null"]
    mine = [override for key, override in given.items() if not key.startswith("hydra.")]
    hydras = [override for key, override in given.items() if key.startswith("hydra.")]
    hydras += [override for override in home if _key(override) not in given]
    return flags + earlier + mine + hydras


@hydra.main(version_base="1.3", config_path="pkg://hct_lightning.conf", config_name="config")
def _run(cfg: DictConfig) -> float | None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    signals.raise_when_terminated()
    if sweep.is_point():
        return _run_point(cfg, folder)
    if not is_rank_zero():
        signals.end_with_parent()
        # They would say the same again.
        for name in (None, "hct_lightning"):
            logging.getLogger(name).setLevel(logging.WARNING)
    try:
        from hct_lightning import runtime, safety

        safety.check_targets(OmegaConf.to_container(cfg, resolve=True), cfg.safety.allow)
        runtime.configure(cfg.runtime)
        task = importlib.import_module(f"hct_lightning.tasks.{cfg.task}")
        task.main(cfg, folder)
    except (ValueError, OSError, ImportError, InstantiationException, RankError) as error:
        # What a user can mend: the message alone; the traceback is in the log for whoever asks.
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        while isinstance(error, InstantiationException) and error.__cause__:
            error = error.__cause__  # what our own constructor said
        log.debug("traceback", exc_info=True)
        if is_rank_zero():
            print(f"error: {error}\n(the traceback is in {folder / 'run.log'})", file=sys.stderr)
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit, signals.Terminated) as stop:
        if not (is_interrupt(stop) or is_termination(stop)):
            raise
        hint = f"; go on with: python -m hct_lightning run={folder}" if cfg.task == "fit" else ""
        if is_rank_zero():
            print(f"interrupted{hint}", file=sys.stderr)
        sys.exit(signals.STATUS if is_termination(stop) else 130)


def _run_point(cfg: DictConfig, folder: Path) -> float | None:
    hydra_cfg = HydraConfig.get()
    try:
        # Other tasks put their results into the run that they are about.
        new_run = cfg.run is None and (cfg.task == "fit" or cfg.ckpt is None)
        overrides = list(hydra_cfg.overrides.task)
        return sweep.run_point(overrides, folder, new_run=new_run)
    except (KeyboardInterrupt, signals.Terminated) as stop:
        home = Path(hydra_cfg.sweep.dir).resolve()
        print(f"interrupted; go on with: python -m hct_lightning run={home}", file=sys.stderr)
        sys.exit(signals.STATUS if is_termination(stop) else 130)


def main() -> None:
    """`hct` and `python -m hct_lightning`."""
    Plugins.instance().register(MoreConfigs)
    try:
        sys.argv[1:] = recompose(sys.argv[1:])
    except ValueError as error:
        sys.exit(f"error: {error}")
    _run()
