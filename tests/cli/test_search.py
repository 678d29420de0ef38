"""Trials that processes share. The whole search, with real runs: tests/tasks/test_search.py."""

import errno
import multiprocessing
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from hct_lightning.cli.search import (
    STORAGE,
    begin_with,
    leading,
    next_trial,
    only_failures,
    open_study,
    refuse_another,
    seed_of,
    suggest,
)

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
optuna = pytest.importorskip("optuna")


def study_in(folder: Path, **options: Any) -> Any:
    given = {"sampler": "RandomSampler", "pruner": "NopPruner", "arguments": {}}
    return open_study(folder, **(given | options))


def test_values_become_overrides():
    space = {
        "a": {"low": 1, "high": 3},
        "b": {"low": 0.5, "high": 1.0},
        "c": {"low": 1e-4, "high": 1, "log": True},
        "group": {"sub": {"d": {"choices": [None, "x", 2]}}},
        "kind": {"choices": ["this", "that"], "size": {"low": 1, "high": 3}},
    }
    fixed = optuna.trial.FixedTrial({"a": 2, "b": 0.75, "c": 0.01, "group.sub.d": None, "kind": "that", "kind.size": 3})
    assert suggest(fixed, space) == ["a=2", "b=0.75", "c=0.01", "group.sub.d=null", "kind=that", "kind.size=3"]


@pytest.mark.parametrize("given", [{"low": 1}, {"high": 1, "to": 2}, 3, {"low": 5, "high": 1}])
def test_a_space_that_is_none_is_named(tmp_path, given):
    with pytest.raises(ValueError, match=r"search\.space\.optim\.lr="):
        suggest(study_in(tmp_path).ask(), {"optim.lr": given})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "Oracle"}, "search.sampler=Oracle: choose a class of optuna.samplers"),
        ({"pruner": "BasePruner"}, "search.pruner=BasePruner"),
        ({"arguments": {"RandomSampler": {"seeds": 1}}}, "search.arguments.RandomSampler=.*seeds"),
        ({"arguments": {"RandomSampler": {"seed": 1}}}, "search.arguments.RandomSampler.seed=1: .*leave it out"),
        ({"sampler": "GridSampler"}, "search.sampler=GridSampler: a grid is a multirun"),
    ],
)
def test_what_optuna_does_not_have_is_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        study_in(tmp_path, **options)


@pytest.mark.parametrize(
    ("kind", "name", "package"),
    [
        ("sampler", "CmaEsSampler", "cmaes"),
        ("sampler", "GPSampler", "scipy"),
        ("sampler", "QMCSampler", "scipy"),
        ("pruner", "WilcoxonPruner", "scipy"),
    ],
)
def test_a_package_that_a_class_needs_is_asked_for_before_anything_begins(tmp_path, monkeypatch, kind, name, package):
    monkeypatch.setitem(sys.modules, package, None)  # how Python marks what can't be imported
    with pytest.raises(
        ImportError, match=rf"^search\.{kind}={name} needs a package that is not installed: pip install {package}$"
    ):
        study_in(tmp_path / "search", **{kind: name})
    assert not list(tmp_path.iterdir())


def test_classes_whose_packages_are_there_are_taken(tmp_path):
    pytest.importorskip("scipy")
    study_in(tmp_path, sampler="QMCSampler", pruner="WilcoxonPruner").ask().suggest_float("x", 0, 1)


@pytest.mark.parametrize(
    "line", [b"\x80\x04pickle\n", b"[]\n", b'{"op_code": 4}\n', b'{"op_code": 99, "worker_id": "x"}\n']
)
def test_a_damaged_storage_is_named(tmp_path, line):
    study_in(tmp_path).ask()
    file = tmp_path / STORAGE
    file.write_bytes(file.read_bytes() + line + line)
    with pytest.raises(ValueError, match=rf"{file} is damaged: .*; give another search\.folder"):
        study_in(tmp_path)


def test_a_search_for_something_else_is_not_taken_for_this_one(tmp_path):
    """What is least would be said to be the best."""
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / STORAGE))
    storage = optuna.storages.JournalStorage(backend)
    optuna.create_study(storage=storage, study_name="search", direction="minimize")
    with pytest.raises(ValueError, match="is of a search for something else; give another search"):
        study_in(tmp_path)


def test_a_class_takes_its_own_arguments_and_no_others(tmp_path):
    arguments = {"MedianPruner": {"n_startup_trials": 2}, "ThresholdPruner": {"lower": 0.5}}
    for pruner in ("NopPruner", "ThresholdPruner"):
        made = study_in(tmp_path, pruner=pruner, arguments=arguments).pruner
        assert type(made).__name__ == pruner


def test_another_search_is_not_continued(tmp_path):
    study = study_in(tmp_path)
    for _ in range(2):  # the same order or another
        refuse_another(study, tmp_path, ["data=folder", "data.root=a"])
        refuse_another(study_in(tmp_path), tmp_path, ["data.root=a", "data=folder"])
    with pytest.raises(
        ValueError, match=rf"{tmp_path} has a search with data\.root=a, where now data\.root=b is given"
    ):
        refuse_another(study, tmp_path, ["data=folder", "data.root=b"])
    with pytest.raises(ValueError, match=r"with fewer options, where now model=hct_cnn is given; .*another search"):
        refuse_another(study, tmp_path, ["data=folder", "data.root=a", "model=hct_cnn"])


def test_what_the_space_does_not_hold_is_said(tmp_path, caplog):
    space = {"optim": {"choices": ["muon", "adamw"], "lr": {"low": 1e-4, "high": 1e-2}}}
    begin_with(study_in(tmp_path), tmp_path, space, {"optim": "sgd", "optim.lr": 1e-3})
    assert "the first trial has other values: search.space does not hold optim=sgd" in caplog.text
    caplog.clear()
    begin_with(study_in(tmp_path), tmp_path, space, {"optim": "sgd", "optim.lr": 1e-3})
    assert not caplog.text, "it is not the first any more"


def test_choices_may_be_lists(tmp_path):
    space = {"data": {"resolution": {"choices": [[512, 360], [1024, 720]]}}}
    study = study_in(tmp_path)
    begin_with(study, tmp_path, space, {"data.resolution": [1024, 720]})
    with next_trial(study, tmp_path, 1, 1) as trial:
        assert suggest(trial, space) == ["data.resolution=[1024, 720]"]


@pytest.mark.parametrize("value", [10**12, -3])
def test_what_a_storage_says_stays_within_the_space(tmp_path, value):
    study, space = study_in(tmp_path), {"data": {"batch_size": {"low": 1, "high": 8}}}
    study.enqueue_trial({"data.batch_size": value})
    with (
        next_trial(study, tmp_path, 1, 1) as trial,
        warnings.catch_warnings(action="ignore"),  # Optuna's own
        pytest.raises(ValueError, match=r"search\.space\.data\.batch_size=.*: trial 0 has "),
    ):
        suggest(trial, space)


def test_failures_alone_are_told_from_others(tmp_path):
    study, state = study_in(tmp_path), optuna.trial.TrialState
    assert not only_failures(study, least=0), "there are none"
    for _ in range(2):
        study.tell(study.ask(), state=state.FAIL)
    study.ask()
    assert only_failures(study, least=2)
    assert not only_failures(study, least=3)
    study.tell(study.ask(), state=state.PRUNED)
    assert not only_failures(study, least=2)


def test_the_first_trial_has_the_options_as_they_stand(tmp_path):
    space = {
        "optim": {"lr": {"low": 1e-4, "high": 1e-2, "log": True}},
        "data": {"batch_size": {"choices": [2, 4]}, "limit": {"low": 10, "high": 99}},
    }
    present = {"optim.lr": 2e-3, "data.batch_size": 4, "data.limit": None}
    study, other = study_in(tmp_path), study_in(tmp_path)
    begin_with(study, tmp_path, space, present)
    begin_with(other, tmp_path, space, present)  # a second process
    with next_trial(study, tmp_path, 1, 1) as first:
        overrides = suggest(first, space)
        assert overrides[:2] == ["optim.lr=0.002", "data.batch_size=4"]
        assert 10 <= int(overrides[2].removeprefix("data.limit=")) <= 99
        study.tell(first, 1.0)
    with next_trial(other, tmp_path, 1, 1) as none:
        assert none is None
    begin_with(other, tmp_path, space, present)
    with next_trial(other, tmp_path, 2, 1) as second:
        assert suggest(second, space)[0] != "optim.lr=0.002"


def test_a_trial_is_held_by_one_and_none_is_too_many(tmp_path):
    study, other = study_in(tmp_path), study_in(tmp_path)
    with next_trial(study, tmp_path, 2, 1) as first, next_trial(other, tmp_path, 2, 1) as second:
        assert [first.number, second.number] == [0, 1]
        with next_trial(study, tmp_path, 2, 1) as third:
            assert third is None
        study.tell(first, 1.0)
    with next_trial(study, tmp_path, 2, 1) as again:  # the second has no end, and nobody holds it any more
        assert again.number == 1
        other.tell(again.number, 2.0)
    assert study.best_value == 2.0


def test_what_was_lucky_once_does_not_stay_in_front(tmp_path):
    """Each line is one training: the trial, whose options it has, its seed and what it is worth."""
    study, space = study_in(tmp_path), {"a": {"low": 0.0, "high": 1.0}}
    begin_with(study, tmp_path, space, {"a": 0.5})
    worth = [0.70, 0.72, 0.71, 0.65, 0.80, 0.50, 0.60]
    lines, options = [], {}
    while len(lines) < 20:
        with next_trial(study, tmp_path, 4, 3) as trial:
            if trial is None:
                break
            (override,) = suggest(trial, space)
            of = options.setdefault(override, trial.number)
            lines.append((trial.number, of, seed_of(trial)))
            study.tell(trial, worth[trial.number] if trial.number < len(worth) else 0.1)
    assert lines == [(0, 0, 0), (1, 0, 1), (2, 0, 2), (3, 3, 0), (4, 4, 0), (5, 4, 1), (6, 6, 0)], "4 options, 2 led"
    found = leading(study)
    assert found is not None
    assert (found[0].number, sorted(found[1])) == (0, [0.70, 0.71, 0.72])


def test_a_seed_that_failed_is_not_tried_for_ever(tmp_path):
    study = study_in(tmp_path)
    states = []
    while len(states) < 9:
        with next_trial(study, tmp_path, 1, 3) as trial:
            if trial is None:
                break
            trial.suggest_float("a", 0.0, 1.0)
            failed = seed_of(trial) > 0
            study.tell(trial, None if failed else 1.0, optuna.trial.TrialState.FAIL if failed else None)
            states.append(seed_of(trial))
    assert states == [0, 1, 2]
    found = leading(study)
    assert found is not None
    assert found[1] == [1.0]


def begin_and_die(folder: str) -> None:
    study = study_in(Path(folder))
    with next_trial(study, Path(folder), 9, 1) as trial:
        trial.suggest_int("a", 1, 100)
        os._exit(1)


def test_a_trial_of_a_process_that_died_goes_on_with_its_values(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=begin_and_die, args=(str(tmp_path),))
    process.start()
    process.join()
    study = study_in(tmp_path)
    before = study.trials[0].params
    with next_trial(study, tmp_path, 9, 1) as trial:
        assert trial.number == 0
        assert trial.suggest_int("a", 1, 100) == before["a"]


def test_without_locks_a_trial_begins_all_the_same(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    study = study_in(tmp_path)
    monkeypatch.setattr("fcntl.flock", refuse)
    with next_trial(study, tmp_path, 1, 1) as trial:
        assert trial.number == 0
