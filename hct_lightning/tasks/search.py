"""Searches for options: trials, each a run in a process of its own, on a storage that several of these share."""

import logging
import shlex
import statistics
import time
from collections.abc import Collection
from pathlib import Path
from subprocess import Popen
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from hct_lightning.cli.plain import plain
from hct_lightning.cli.recompose import key_of
from hct_lightning.cli.search import begin_with, leading, next_trial, open_study, options_of, override, seed_of, suggest
from hct_lightning.cli.sweep import start_run
from hct_lightning.report import sweep
from hct_lightning.report.files import RunFiles
from hct_lightning.runs import endings, signals
from hct_lightning.runs.folder import Run, refuse_replacing
from hct_lightning.runs.printable import printable
from hct_lightning.runs.secrets import hide_in

log = logging.getLogger(__name__)

LOOKS_EVERY_S = 1.0
METRIC = "val/accuracy"


def main(cfg: DictConfig, folder: Path) -> None:
    """`task=search`: takes part in the search of `search.folder` until it has all its trials.

    Raises:
        ValueError: without options to search, or for options that can't be.
    """
    options = plain(cfg.search)
    if not options["space"]:
        raise ValueError("search.space is empty: name options with what they may be, or use +sweeps=search")
    for name in ("trials", "seeds"):
        if not isinstance(options[name], int) or options[name] < 1:
            raise ValueError(f"search.{name}={options[name]}: give a whole number of at least 1")
    home = Path(options["folder"]).expanduser().resolve()
    study = open_study(home, **{name: options[name] for name in _OF_OPTUNA})
    begin_with(
        study, home, options["space"], {option: present(cfg, option) for option, _ in options_of(options["space"])}
    )
    base = [o for o in HydraConfig.get().overrides.task if key_of(o).split(".")[0] not in _NOT_OF_TRIALS]
    while True:
        with next_trial(study, home, options["trials"], options["seeds"]) as trial:
            if trial is None:
                break
            suggested = [*suggest(trial, options["space"]), f"seed={cfg.seed + seed_of(trial)}"]
            _run(study, trial, home / str(trial.number), base, suggested)
    sweep.report(home)
    _say_best(study, base, [option for option, _ in options_of(options["space"])])


_OF_OPTUNA = ("sampler", "sampler_options", "pruner", "pruner_options")
_OF_SLURM = ("SLURM_", "SUBMITIT_")  # the job is this process's
_NOT_OF_TRIALS = ("task", "search", "sweeps", "slurm", "run")


def present(cfg: DictConfig, option: str) -> Any:
    """What an option, or a group of them, is without the search."""
    chosen = HydraConfig.get().runtime.choices
    return chosen[option] if option in chosen else OmegaConf.select(cfg, option)


def _run(study: Any, trial: Any, folder: Path, base: list[str], suggested: list[str]) -> None:
    """Trains, reports each epoch to the study, and ends the run when that says so.

    Raises:
        ValueError: when the folder holds the results of other options than those that are suggested.
    """
    from optuna.trial import TrialState

    run, overrides = Run(folder), [*base, *suggested]
    begun = set(hide_in(suggested)) <= set(run.record.get("overrides") or ())
    if not begun:
        refuse_replacing(folder, overrides)
    if begun and run.record.get("status") == "completed":  # killed before it could say so
        study.tell(trial, _value(folder))
        return
    run.update(overrides=overrides)
    log.info("trial %d: %s", trial.number, shlex.join(suggested))
    goes_on = (folder / "checkpoints" / "last.ckpt").exists()
    if goes_on:  # from there, and not from weights that it began with
        command = [*(option for option in overrides if key_of(option) != "ckpt"), f'run="{folder}"']
    else:
        command = [*overrides, f'hydra.run.dir="{folder}"']
    child = start_run(command, but=_OF_SLURM)
    reported = set(study.trials[trial.number].intermediate_values)
    try:
        pruned = _watch(child, trial, folder, reported)
    except BaseException:
        child.terminate()
        child.wait()
        raise
    if child.returncode == endings.INTERRUPTED:
        raise KeyboardInterrupt
    if pruned:
        run.end("pruned", f"others were better after {max(reported)} epochs")
        study.tell(trial, state=TrialState.PRUNED)
    elif child.returncode == endings.TERMINATED:
        raise signals.Terminated
    elif child.returncode:
        reason = run.record.get("reason") or signals.in_words(child.returncode)
        run.end("failed", reason)
        log.error("trial %d failed: %s", trial.number, reason)
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, _value(folder))


def _value(folder: Path) -> float:
    """What a completed trial counts by."""
    return max(value for _, value in RunFiles(folder, folder.name).metrics[METRIC])


def _watch(child: Popen, trial: Any, folder: Path, reported: set[int]) -> bool:
    """Until the run ends; whether it was ended because others are better. With a further seed it goes to its end."""
    while True:
        ended = child.poll() is not None
        for epoch, value in RunFiles(folder, folder.name).metrics.get(METRIC, ()):
            if int(epoch) not in reported:
                trial.report(value, int(epoch))
                reported.add(int(epoch))
                if not ended and not seed_of(trial) and trial.should_prune():
                    child.terminate()
                    child.wait()
                    return True
        if ended:
            return False
        time.sleep(LOOKS_EVERY_S)


def suggestions(trial: Any, options: Collection[str]) -> list[str]:
    """A trial's values of these options as overrides."""
    return [override(option, value) for option, value in trial.params.items() if option in options]


def _say_best(study: Any, base: list[str], options: Collection[str]) -> None:
    """The command of the best trial, with the options of this search: the file may be a stranger's."""
    if not (found := leading(study)):
        log.warning("no trial was completed")
        return
    best, values = found
    command = shlex.join(["python", "-m", "hct_lightning", *base, *suggestions(best, options)])
    by = f"{METRIC} {statistics.fmean(values):.4f}" + (f", mean of {len(values)} seeds" if len(values) > 1 else "")
    print(printable(f"best: trial {best.number}, {by}: {command}", line=True))
