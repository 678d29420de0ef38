"""Searches for options: trials, each a run in a process of its own, on a storage that several of these share."""

import logging
import shlex
import statistics
import time
from collections.abc import Collection
from pathlib import Path
from subprocess import Popen
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from hct_lightning.cli.plain import plain
from hct_lightning.cli.recompose import key_of, quoted
from hct_lightning.cli.search import (
    begin_with,
    check_space,
    leading,
    next_trial,
    only_failures,
    open_study,
    options_of,
    override,
    refuse_another,
    seed_of,
    suggest,
)
from hct_lightning.cli.sweep import start_run
from hct_lightning.report import sweep
from hct_lightning.report.files import RunFiles
from hct_lightning.runs import endings, signals
from hct_lightning.runs.folder import Run, refuse_replacing
from hct_lightning.runs.links import check_links
from hct_lightning.runs.printable import printable
from hct_lightning.runs.secrets import hide_in

log = logging.getLogger(__name__)

LOOKS_EVERY_S = 1.0
MOST_FAILURES = 3  # with nothing else, before a search ends
METRIC = "val/accuracy"


def main(cfg: DictConfig, folder: Path) -> None:
    """`task=search`: takes part in the search of `search.folder` until it has all its trials.

    Raises:
        ValueError: without options to search, or for options that can't be; when every trial fails.
    """
    options = plain(cfg.search)
    for name in ("space", "arguments"):
        if not isinstance(options[name] or {}, dict):
            raise ValueError(f"search.{name}={options[name]}: give options by their names, as sweeps/search.yaml does")
    if not options["space"]:
        raise ValueError("search.space is empty: name options with what they may be, or use +sweeps=search")
    for name in ("trials", "seeds"):
        if not isinstance(options[name], int) or options[name] < 1:
            raise ValueError(f"search.{name}={options[name]}: give a whole number of at least 1")
    check_space(options["space"])
    _refuse_more(HydraConfig.get().runtime.choices.get("sweeps"))
    home = Path(str(options["folder"])).expanduser().resolve()
    now = {option: present(cfg, option) for option, _ in options_of(options["space"])}
    base = [o for o in HydraConfig.get().overrides.task if key_of(o).split(".")[0] not in _NOT_OF_TRIALS]
    check_links(home)
    study = open_study(home, **{name: options[name] for name in _OF_OPTUNA})
    refuse_another(study, home, hide_in([o for o in base if key_of(o).split(".")[0] not in _OF_A_PROCESS]))
    begin_with(study, home, options["space"], now)
    trials_have = [*(o for o in _OF_TRIALS if key_of(o) not in map(key_of, base)), *base]
    while True:
        with next_trial(study, home, options["trials"], options["seeds"]) as trial:
            if trial is None:
                break
            suggested = [*suggest(trial, options["space"]), f"seed={cfg.seed + seed_of(trial)}"]
            _run(study, trial, home / str(trial.number), trials_have, suggested)
        if only_failures(study, least=MOST_FAILURES):
            break
    sweep.report(home)
    if only_failures(study, least=1):
        raise ValueError(f"every trial failed, and nothing was found; the reasons are above and in {home}/*/run.json")
    _say_best(study, base, [option for option, _ in options_of(options["space"])])


_OF_OPTUNA = ("sampler", "pruner", "arguments")
_OF_SLURM = ("SLURM_", "SUBMITIT_")  # the job is this process's
_OF_TRIALS = ("export=[]", "fit.report=false")  # unless these are given: trials are many
_OF_A_PROCESS = ("runtime", "logger")  # which others that share the search may have otherwise
_NOT_OF_TRIALS = ("task", "search", "sweeps", "slurm", "run")


def present(cfg: DictConfig, option: str) -> Any:
    """What an option, or a group of them, is without the search.

    Raises:
        ValueError: when there is none.
    """
    chosen = HydraConfig.get().runtime.choices
    if option in chosen:
        return chosen[option]
    value = OmegaConf.select(cfg, option, default=_ABSENT)
    if value is _ABSENT:
        raise ValueError(
            f"search.space.{option}: there is no such option here; leave it out of the search: ~search.space.{option}"
        )
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


_ABSENT = object()


def _refuse_more(name: str | None) -> None:
    """Refuses a file of the group `sweeps` that says more than what is searched: trials don't see it.

    Raises:
        ValueError: naming the options.
    """
    loader: Any = GlobalHydra.instance().config_loader()
    if not name or not (found := loader.repository.load_config(f"sweeps/{name}")):
        return
    groups = {entry.group.lstrip("/") for entry in found.defaults_list if getattr(entry, "group", None)}
    if more := sorted((groups | set(found.config)) - {"task", "search", "hydra"}):
        raise ValueError(
            f"+sweeps={name}: its file sets {', '.join(more)}, which trials would not have; leave that out there, and give "
            "it on the command line"
        )


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
        _count(study, trial, run)
        return
    run.update(overrides=overrides)
    log.info("trial %d: %s", trial.number, shlex.join(suggested))
    goes_on = (folder / "checkpoints" / "last.ckpt").exists()
    if goes_on:  # from there, and not from weights that it began with
        command = [*(option for option in overrides if key_of(option) != "ckpt"), f"run={quoted(folder)}"]
    else:
        command = [*overrides, f"hydra.run.dir={quoted(folder)}"]
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
        run.end("pruned", f"others were better after {max(reported) + 1} epochs")
        study.tell(trial, state=TrialState.PRUNED)
    elif child.returncode == endings.TERMINATED:
        raise signals.Terminated
    elif child.returncode:
        _fail(study, trial, run, run.record.get("reason") or signals.in_words(child.returncode))
    else:
        _count(study, trial, run)


def _count(study: Any, trial: Any, run: Run) -> None:
    """A completed trial counts by its best."""
    if measured := RunFiles(run.folder, run.folder.name).metrics.get(METRIC):
        study.tell(trial, max(value for _, value in measured))
    else:
        _fail(study, trial, run, f"it measured no {METRIC}")


def _fail(study: Any, trial: Any, run: Run, reason: str) -> None:
    from optuna.trial import TrialState

    run.end("failed", reason)
    log.error("trial %d failed: %s", trial.number, reason)
    study.tell(trial, state=TrialState.FAIL)


def _watch(child: Popen, trial: Any, folder: Path, reported: set[int]) -> bool:
    """Until the run ends; whether it was ended because others are better. With a further seed it goes to its end."""
    while True:
        ended = child.poll() is not None
        for epoch, value in RunFiles(folder, folder.name).metrics.get(METRIC, ()):
            step = int(epoch) - 1  # Optuna's count from zero
            if step not in reported:
                trial.report(value, step)
                reported.add(step)
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
