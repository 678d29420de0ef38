"""Optuna's search, shared by processes: a trial is a run in a folder of its own, the storage a file beside them.

A process holds the lock of the trial that it runs; a trial without an end that nobody holds was interrupted, and whoever
comes next goes on with it. Where the disk has no locks over several machines, each trial of a killed process stays as it is.

Options that lead after one training are tried with further seeds, each a trial of its own, and count by the mean; so what
was lucky once does not stay in front (the incumbent of SMAC, Hutter et al. 2011).
"""

import contextlib
import fcntl
import importlib
import logging
import math
import statistics
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hct_lightning.deploy.extra import extra
from hct_lightning.runs.files import locked

log = logging.getLogger(__name__)

STORAGE = "search.journal"
BASE = "overrides"  # an attribute of the study: the options that all its trials have
# Attributes of a trial with a further seed: the number of the one whose options it has, and which seed after the first.
REPEATS, SEED = "repeats", "seed"

_RANGE = ("low", "high", "log", "step", "choices")
_GRIDS = ("BruteForceSampler", "GridSampler")
# What Optuna imports for these when they first suggest something, after a trial or ten.
_PACKAGES = {"CmaEsSampler": "cmaes", "GPSampler": "scipy", "QMCSampler": "scipy", "WilcoxonPruner": "scipy"}


def open_study(folder: Path, *, sampler: str, pruner: str, arguments: Mapping[str, Mapping[str, Any]]) -> Any:
    """The study of a folder, new or as it stands, which maximises.

    Args:
        folder: made when absent.
        sampler: a class of `optuna.samplers`.
        pruner: a class of `optuna.pruners`.
        arguments: of such classes, by their names.

    Raises:
        ValueError: for a class that Optuna does not have, or that is not for a search that processes share; for
            arguments that it does not take; for a storage that is damaged, or that of another kind of search.
        ImportError: for a class that needs a package which is not installed.
    """
    optuna = _quiet_optuna()
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    made = []
    for kind, name in (("sampler", sampler), ("pruner", pruner)):
        module, given = getattr(optuna, f"{kind}s"), (arguments or {}).get(name) or {}
        if name not in module.__all__ or name.startswith("Base"):
            raise ValueError(f"search.{kind}={name}: choose a class of optuna.{kind}s, as {', '.join(module.__all__)}")
        if name in _GRIDS:
            raise ValueError(f"search.sampler={name}: a grid is a multirun, without a search: -m optim.lr=1e-3,2e-3")
        if name in _PACKAGES:
            try:
                importlib.import_module(_PACKAGES[name])
            except ImportError as error:
                raise ImportError(
                    f"search.{kind}={name} needs a package that is not installed: pip install {_PACKAGES[name]}"
                ) from error
        if "seed" in given:
            raise ValueError(
                f"search.arguments.{name}.seed={given['seed']}: processes that share a search would try the same "
                "options; leave it out"
            )
        try:
            made.append(getattr(module, name)(**given))
        except TypeError as error:
            raise ValueError(f"search.arguments.{name}={dict(given)}: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder / STORAGE):
            study = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(folder / STORAGE))),
                study_name="search",
                direction="maximize",
                load_if_exists=True,
                sampler=made[0],
                pruner=made[1],
            )
            study.get_trials(deepcopy=False)
            directions = study.directions
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / STORAGE} is damaged: {error!r:.200}; give another search.folder") from error
    if directions != [optuna.study.StudyDirection.MAXIMIZE]:
        raise ValueError(f"{folder / STORAGE} is of a search for something else; give another search.folder")
    return study


def _quiet_optuna() -> Any:
    """The package. Raises ImportError, saying how to install it, where it is missing."""
    with extra("search"):
        import optuna
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def refuse_another(study: Any, folder: Path, base: Sequence[str]) -> None:
    """Notes what a new search is about.

    Args:
        study: of the folder.
        folder: with its storage.
        base: the options that all trials have, without secrets.

    Raises:
        ValueError: when the search there is about something else.
    """
    with locked(folder / STORAGE):
        known = study.user_attrs.get(BASE)
        if not isinstance(known, list):
            known = list(base)
            study.set_user_attr(BASE, known)
    before, now = (
        sorted(set(some) - set(others)) for some, others in ((map(str, known), base), (base, map(str, known)))
    )
    if before or now:
        raise ValueError(
            f"search.folder={folder} has a search with {' '.join(before) or 'fewer options'}, where now "
            f"{' '.join(now) or 'fewer'} is given; give the same options, or another search.folder"
        )


def options_of(space: Mapping[str, Any], group: str = "") -> Iterator[tuple[str, Any]]:
    """The options of a space, which stand in their groups, with what they may be; a group itself may have choices."""
    for name, given in space.items():
        own = {key: given[key] for key in _RANGE if key in given} if isinstance(given, Mapping) else given
        if own or not isinstance(given, Mapping):
            yield group + name, own
        if isinstance(given, Mapping):
            yield from options_of({key: given[key] for key in given if key not in own}, f"{group}{name}.")


def suggest(trial: Any, space: Mapping[str, Any]) -> list[str]:
    """The overrides of a trial, one an option of `space`.

    Args:
        trial: asked for a value of each.
        space: by option `{low: 1, high: 8}`, for floats where one of them is a float, with `log: true` on a logarithmic
            scale; or `{choices: [a, b]}`. Options stand in their groups, and a group's choice beside them.

    Raises:
        ValueError: for what is neither.
    """
    overrides = []
    for option, given in options_of(space):
        try:
            if "choices" in given:
                if not isinstance(given["choices"], list):
                    raise TypeError("choices are no list")
                value = trial.suggest_categorical(option, [_stored(choice) for choice in given["choices"]])
            elif isinstance(given["low"], int) and isinstance(given["high"], int):
                value = trial.suggest_int(option, **given)
            else:
                value = trial.suggest_float(option, **given)
            held = _holds(given, value)
        except (ArithmeticError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"search.space.{option}={given}: give {{low: 1, high: 8}}, with log: true if you like, or "
                f"{{choices: [a, b]}} ({error!r})"
            ) from error
        if not held:  # the storage is a stranger's, or the space has changed
            raise ValueError(
                f"search.space.{option}={given}: trial {trial.number} has {value!r:.100}; give another search.folder"
            )
        overrides.append(override(option, value))
    return overrides


def check_space(space: Mapping[str, Any]) -> None:
    """Raises ValueError for what `suggest` does not take: a trial that is thrown away is asked for it."""
    suggest(_quiet_optuna().create_study().ask(), space)


def override(option: str, value: Any) -> str:
    return f"{option}={'null' if value is None else value}"


def begin_with(study: Any, folder: Path, space: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    """Makes the first trial of a new search that of the options as they stand, so that it ends no worse than they are.

    Args:
        study: of the folder.
        folder: with its storage.
        space: see `suggest`.
        present: the value of each option. One that the space does not hold is suggested as in any other trial.
    """
    values = {o: _stored(present[o]) for o, given in options_of(space) if _holds(given, present[o])}
    with locked(folder / STORAGE):
        if study.get_trials(deepcopy=False):
            return
        study.enqueue_trial(values)
    if outside := [override(option, value) for option, value in present.items() if option not in values]:
        log.warning("the first trial has other values: search.space does not hold %s", " ".join(outside))


def _stored(value: Any) -> Any:
    """A value as Optuna keeps it: it has no lists."""
    return str(value) if isinstance(value, list) else value


def _holds(given: Any, value: Any) -> bool:
    """Whether a value is one of those that an option may have."""
    if "choices" in given:
        return value in given["choices"] or value in map(_stored, given["choices"])
    return type(value) in (int, float) and given.get("low", math.inf) <= value <= given.get("high", -math.inf)


@contextlib.contextmanager
def next_trial(study: Any, folder: Path, most: int, seeds: int) -> Iterator[Any]:
    """One that was interrupted, the leading options with their next seed, or a new one; held until the end of the block.

    None where `most` were tried already, and those that lead with all seeds.

    Args:
        study: of the folder.
        folder: with the trials' folders.
        most: options that all processes try.
        seeds: that those which lead are tried with.
    """
    from optuna.trial import Trial, TrialState

    with contextlib.ExitStack() as held:
        with locked(folder / STORAGE):
            every = study.get_trials(deepcopy=False)
            running = (trial for trial in every if trial.state == TrialState.RUNNING)
            found = next((trial for trial in running if _hold(folder, trial.number, held)), None)
            if found:
                trial = Trial(study, found._trial_id)
            elif _repeat(study, seeds) or sum(trial.state != TrialState.WAITING for trial in _firsts(every)) < most:
                trial = study.ask()
                _hold(folder, trial.number, held)
            else:
                trial = None
        yield trial


def leading(study: Any) -> tuple[Any, list[float]] | None:
    """The first trial of the options that are best so far, by the mean over their seeds, and the value with each."""
    from optuna.trial import TrialState

    complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    values = {trial.number: [trial.value] for trial in _firsts(complete)}
    for trial in complete:
        if trial.user_attrs.get(REPEATS) in values:
            values[trial.user_attrs[REPEATS]].append(trial.value)
    if not values:
        return None
    best = max(values, key=lambda number: statistics.fmean(values[number]))
    return study.get_trials(deepcopy=False)[best], values[best]


def only_failures(study: Any, least: int) -> bool:
    """Whether so many trials at least have ended, and each of them failed."""
    from optuna.trial import TrialState

    ended = [trial.state for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    return len(ended) >= least and set(ended) == {TrialState.FAIL}


def seed_of(trial: Any) -> int:
    """Which seed a trial has, counted from the search's own."""
    return int(trial.user_attrs.get(SEED, 0))


def _firsts(trials: Iterable[Any]) -> list[Any]:
    """Trials without those that repeat another."""
    return [trial for trial in trials if REPEATS not in trial.user_attrs]


def _repeat(study: Any, seeds: int) -> bool:
    """Whether a trial waits that has the leading options and a new seed; it is put there if need be."""
    from optuna.trial import TrialState

    every = study.get_trials(deepcopy=False)
    if waiting := next((trial for trial in every if trial.state == TrialState.WAITING), None):
        return REPEATS in waiting.user_attrs
    if not (found := leading(study)):
        return False
    first = found[0]
    tried = 1 + sum(trial.user_attrs.get(REPEATS) == first.number for trial in every)  # failed ones, too
    if tried < seeds:
        study.enqueue_trial(first.params, user_attrs={REPEATS: first.number, SEED: tried})
    return tried < seeds


def _hold(folder: Path, number: int, held: contextlib.ExitStack) -> bool:
    """Takes the lock of a trial, which ends with the process at the latest; whether nobody else has it."""
    (folder / str(number)).mkdir(exist_ok=True)
    file = (folder / str(number) / ".held").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return False
    except OSError as error:
        log.debug("%s: no locks here: %s", folder, error)
    held.enter_context(file)
    return True
