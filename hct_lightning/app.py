"""The entry point: compose the configuration, check it, call the task.

Nothing heavy is imported before the configuration is composed, so that `--help` and `--cfg job`
answer at once.
"""

import importlib.util
import logging
import os
import signal
import sys
import time
import traceback
from importlib.resources import files
from pathlib import Path
from typing import NoReturn

import hydra
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.errors import InstantiationException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from hct_lightning import signals, sweep
from hct_lightning.run import RankError, Run, is_interrupt, is_rank_zero, is_termination
from hct_lightning.slurm import job

log = logging.getLogger(__name__)

MULTIRUN = {"-m", "--multirun"}
GROUPS = ("slurm", "sweeps")  # beside those of conf/


class BesideConf(FileConfigSource):
    """A folder in which those of `GROUPS` are config groups; `--help` lists those alone."""

    @staticmethod
    def scheme() -> str:
        return "beside"

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        found = super().list(config_path, results_filter)
        return found if config_path else [name for name in found if name in GROUPS]


class MoreConfigs(SearchPathPlugin):
    """Finds the groups that are folders of their own, and a user's configuration.

    The latter is ~/.config/hct_lightning (say `local/default.yaml` in it).
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        Plugins.instance().register(BesideConf)
        for group in GROUPS:
            package = importlib.import_module(f"hct_lightning.{group}")
            search_path.append("hct-groups", f"beside://{Path(package.__path__[0]).parent}")
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
    if key in given or group in ("hydra", "task", "run", "ckpt", "slurm"):
        return False
    if group in given and option:
        # Another data set has its own options; resolution and the like go on.
        conf = files("hct_lightning.conf")
        base, config = (
            conf / group / "_base.yaml",
            OmegaConf.create((conf / "config.yaml").read_text()),
        )
        shared = OmegaConf.create(base.read_text()) if base.is_file() else config.get(group)
        return option.split(".")[0] in (shared or ())
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
    # A sweep's points do it themselves, as processes of their own.
    if not run or run == "null" or (MULTIRUN & set(flags) and "slurm" not in given):
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
    home = [
        "hydra.output_subdir=null", f'hydra.run.dir="{folder}"',
        f'hydra.sweep.dir="{folder}/slurm"', 'hydra.sweep.subdir=".."',
    ]  # fmt: skip
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
        if not job.is_rank():
            signals.end_with_parent()
        # They would say the same again.
        for name in (None, "hct_lightning"):
            logging.getLogger(name).setLevel(logging.WARNING)
    try:
        from hct_lightning import runtime, safety

        if job.is_submitted() and is_rank_zero() and cfg.run is None:
            Run(folder).update(
                overrides=list(HydraConfig.get().overrides.task)
            )  # for the sweep's report
        safety.check_targets(OmegaConf.to_container(cfg, resolve=True), cfg.safety.allow)
        runtime.configure(cfg.runtime)
        task = importlib.import_module(f"hct_lightning.tasks.{cfg.task}")
        task.main(cfg, folder)
    except (ValueError, OSError, ImportError, InstantiationException, RankError) as error:
        # What a user can mend: the message alone; the traceback is in the log for whoever asks.
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            if not job.is_rank():
                raise
            traceback.print_exc()
        while isinstance(error, InstantiationException) and error.__cause__:
            error = error.__cause__  # what our own constructor said
        log.debug("traceback", exc_info=True)
        if is_rank_zero():
            print(f"error: {error}\n(the traceback is in {folder / 'run.log'})", file=sys.stderr)
        elif job.is_rank():
            print(f"error: {error}", file=sys.stderr)
        _end(1)
    except (KeyboardInterrupt, SystemExit, signals.Terminated) as stop:
        if not (is_interrupt(stop) or is_termination(stop)):
            raise
        hint = f"; go on with: python -m hct_lightning run={folder}" if cfg.task == "fit" else ""
        if is_rank_zero():
            print(f"interrupted{hint}", file=sys.stderr)
        if job.inside() and is_termination(stop):
            _requeue(stop)
        _end(signals.STATUS if is_termination(stop) else 130)
    except Exception:
        if not job.is_rank():
            raise
        traceback.print_exc()
        _end(1)


def _end(status: int) -> NoReturn:
    """Ends this process; a rank that srun started at once, and with its own status.

    Submitit and Hydra would make a result of its exception and end with 0, and an interpreter that
    shuts down may wait for threads and other ranks; srun ends those when this one has ended.
    """
    if not job.is_rank():
        sys.exit(status)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _requeue(stop: BaseException) -> None:
    """Puts a job of which Slurm wants the nodes, or whose time is up, back into the queue.

    Then Slurm ends all its processes. Returns when there is nothing to put back.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    noticed = isinstance(stop, signals.Preempted)
    if not is_rank_zero():
        time.sleep(20)  # rank 0 does it and ends them all, unless it hangs
    elif not noticed:
        noticed = job.is_preempted()
    if not noticed:
        return
    if refusal := job.requeue():
        print(f"error: Slurm does not put the job back: {refusal}", file=sys.stderr)
        return
    time.sleep(600)


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
    # DDP would warn on each rank of what its strategy here does on purpose. Read when torch is imported.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    Plugins.instance().register(MoreConfigs)
    try:
        sys.argv[1:] = recompose(sys.argv[1:])
    except ValueError as error:
        sys.exit(f"error: {error}")
    to_slurm = any(_is_override(arg) and _key(arg) == "slurm" for arg in sys.argv[1:])
    if to_slurm and importlib.util.find_spec("submitit") is None:
        sys.exit("error: +slurm=... needs submitit: pip install 'hct-lightning[slurm]'")
    _run()
