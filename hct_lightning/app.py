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
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from hct_lightning.cli import sweep
from hct_lightning.cli.groups import MoreConfigs
from hct_lightning.cli.recompose import is_override, key_of, recompose
from hct_lightning.machine import slurm as job
from hct_lightning.runs import signals
from hct_lightning.runs.endings import RankError, is_interrupt, is_rank_zero, is_termination
from hct_lightning.runs.folder import Run

log = logging.getLogger(__name__)


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
        from hct_lightning.cli import allowed as safety
        from hct_lightning.machine import runtime

        if job.is_submitted() and is_rank_zero() and cfg.run is None:
            Run(folder).update(overrides=list(HydraConfig.get().overrides.task))  # for the sweep's report
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
    to_slurm = any(is_override(arg) and key_of(arg) == "slurm" for arg in sys.argv[1:])
    if to_slurm and importlib.util.find_spec("submitit") is None:
        sys.exit("error: +slurm=... needs submitit: pip install 'hct-lightning[slurm]'")
    _run()
