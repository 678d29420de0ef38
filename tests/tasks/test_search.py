"""A search with real runs: two processes share it, a killed one goes on."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

optuna = pytest.importorskip("optuna")

SEARCH = (
    "task=search",
    "search.trials=4",
    "search.seeds=1",
    "+search.space.optim.lr={low: 1e-4, high: 1e-2, log: true}",
    "+search.space.data.batch_size={choices: [2, 4]}",
    "export=[]",
    "fit.report=false",
    "data.num_workers=0",
)


def study_of(folder: Path) -> optuna.Study:
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "search.journal"))
    return optuna.load_study(study_name="search", storage=optuna.storages.JournalStorage(backend))


def trials_of(folder: Path) -> list:
    return study_of(folder).trials


@pytest.mark.slow
def test_a_search_runs_its_trials_and_says_which_is_best(cli, tiny, tmp_path):
    folder = tmp_path / "search"
    options = ("search.trials=1", f"search.folder={folder}", f"hydra.run.dir={folder}/log")
    done = cli(*tiny, *SEARCH, "trainer.max_epochs=1", *options, cwd=tmp_path)
    (trial,) = trials_of(folder)
    record = json.loads((folder / "0" / "run.json").read_text())
    assert record["status"] == "completed"
    assert trial.value == pytest.approx(record["metrics"]["best"])
    assert "best: trial 0, val/accuracy" in done.stdout
    assert f"optim.lr={trial.params['optim.lr']}" in done.stdout
    assert (folder / "sweep.json").exists()
    # Killed when a run was completed, and before it could say so.
    again = study_of(folder).ask()
    again.suggest_float("optim.lr", 1e-4, 1e-2, log=True)
    again.suggest_categorical("data.batch_size", [2, 4])
    again.suggest_categorical("safety.allow", ["[os]"])  # of a stranger, whose command users may copy
    options = (*options, "search.trials=2")
    shutil.copytree(folder / "0" / "checkpoints", folder / "1" / "checkpoints")
    shutil.copy(folder / "0" / "metrics.csv", folder / "1" / "metrics.csv")
    (folder / "1" / "run.json").write_text(json.dumps(record))
    done = cli(*tiny, *SEARCH, "trainer.max_epochs=1", *options, cwd=tmp_path, status=1)
    assert f"{folder}/1 is the folder of an earlier run" in done.stderr, "its options were others"
    suggested = [f"{name}={value}" for name, value in again.params.items() if name != "safety.allow"]
    begun = [o for o in record["overrides"] if o.split("=")[0] not in again.params]
    (folder / "1" / "run.json").write_text(json.dumps(record | {"overrides": [*begun, *suggested]}))
    done = cli(*tiny, *SEARCH, "trainer.max_epochs=1", *options, cwd=tmp_path)
    assert [again.value for again in trials_of(folder)] == [trial.value] * 2
    assert "epoch 1/1" not in done.stderr
    assert "safety" not in done.stdout


def test_without_a_space_it_says_so(cli, tmp_path):
    done = cli("task=search", f"search.folder={tmp_path}/search", cwd=tmp_path, status=1)
    assert "search.space is empty" in done.stderr


@pytest.mark.parametrize("given", ["search.trials=0", "search.seeds=some"])
def test_counts_that_are_none_are_named(cli, tmp_path, given):
    done = cli("+sweeps=search", f"search.folder={tmp_path}/search", given, cwd=tmp_path, status=1)
    assert f"{given}: give a whole number of at least 1" in done.stderr


@pytest.mark.parametrize("given", ["search.space=all", "search.arguments=some"])
def test_what_has_no_names_is_refused(cli, tmp_path, given):
    done = cli("+sweeps=search", f"search.folder={tmp_path}/search", given, cwd=tmp_path, status=1)
    assert f"{given}: give options by their names" in done.stderr


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("3", "3"),
        ("{choices: 5}", "{'choices': 5}"),
        ("{choices: abc}", "{'choices': 'abc'}"),
        ("{low: a, high: 1}", "{'low': 'a', 'high': 1}"),
        ("{low: '1', high: '2'}", "{'low': '1', 'high': '2'}"),
    ],
)
def test_a_space_that_is_none_is_named(cli, tmp_path, given, named):
    """Before anything is written, and without a traceback."""
    options = (f"+search.space.optim.lr={given}", f"search.folder={tmp_path}/search")
    done = cli("task=search", *options, cwd=tmp_path, status=1)
    assert f"error: search.space.optim.lr={named}: give {{low: 1, high: 8}}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "search").exists()


def test_a_folder_that_leads_elsewhere_is_refused(cli, tmp_path):
    (tmp_path / "search").mkdir()
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "search" / ".search.journal.lock").symlink_to(tmp_path / "thesis.txt")
    done = cli("+sweeps=search", f"search.folder={tmp_path}/search", "hydra.run.dir=log", cwd=tmp_path, status=1)
    assert f"leads to {tmp_path}/thesis.txt" in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_an_option_that_there_is_not_is_named(cli, tmp_path):
    done = cli("+sweeps=search", "model=resnet18", f"search.folder={tmp_path}/search", cwd=tmp_path, status=1)
    assert "search.space.model.drop_path_rate: there is no such option here; leave it out" in done.stderr
    assert not (tmp_path / "search" / "search.journal").exists()


@pytest.mark.slow
def test_a_search_whose_every_trial_fails_ends_early(cli, tmp_path):
    options = ("data=folder", f"data.root={tmp_path}/absent", f"search.folder={tmp_path}/search")
    done = cli("+sweeps=search", *options, cwd=tmp_path, status=1)
    assert [trial.state.name for trial in trials_of(tmp_path / "search")] == ["FAIL"] * 3
    assert "error: every trial failed" in done.stderr


@pytest.mark.slow
def test_a_trial_that_measures_nothing_has_failed(cli, tiny, tmp_path):
    options = ("search.trials=1", f"search.folder={tmp_path}/search", "trainer.max_epochs=1")
    done = cli(*tiny, *SEARCH, *options, "trainer.limit_val_batches=0", cwd=tmp_path, status=1)
    assert "trial 0 failed: it measured no val/accuracy" in done.stderr
    assert not (tmp_path / "search" / "0" / "artifacts").exists()


@pytest.mark.slow
def test_what_leads_is_trained_with_further_seeds(cli, tiny, tmp_path):
    folder = tmp_path / "search"
    options = ("search.trials=1", "search.seeds=2", f"search.folder={folder}", f"hydra.run.dir={folder}/log")
    done = cli(*tiny, *SEARCH, *options, "trainer.max_epochs=1", "seed=5", cwd=tmp_path)
    first, again = trials_of(folder)
    assert first.params == again.params
    records = [json.loads((folder / name / "run.json").read_text()) for name in ("0", "1")]
    assert [record["overrides"][-1] for record in records] == ["seed=5", "seed=6"]
    assert [record["metrics"]["best"] for record in records] == pytest.approx([first.value, again.value])
    mean = (first.value + again.value) / 2
    assert f"best: trial 0, val/accuracy {mean:.4f}, mean of 2 seeds: python -m hct_lightning" in done.stdout
    (row,) = json.loads((folder / "seeds.json").read_text())
    assert row["accuracy"] == pytest.approx(mean)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_share_it_and_a_killed_one_goes_on(cli, environment, tiny, tmp_path):
    folder = tmp_path / "search"
    more = ("search.trials=3", "trainer.max_epochs=3", "callbacks.last.every_steps=1", f"search.folder={folder}")
    command = [sys.executable, "-m", "hct_lightning", *tiny, *SEARCH, *more]

    def start(name: str) -> subprocess.Popen:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(
            [*command, f"hydra.run.dir={folder}/log/{name}"], cwd=tmp_path, env=environment, **quiet
        )

    one, other = start("one"), start("other")
    while not all((folder / str(i) / "checkpoints" / "last.ckpt").exists() for i in (0, 1)):
        assert one.poll() is None or other.poll() is None
        time.sleep(0.05)
    one.kill()
    one.wait()
    other.wait()
    done = cli(*tiny, *SEARCH, *more, f"hydra.run.dir={folder}/log/third", cwd=tmp_path)
    trials = trials_of(folder)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    assert all(sorted(trial.intermediate_values) == [0, 1, 2] for trial in trials)
    assert len({trial.params["optim.lr"] for trial in trials}) == 3
    for trial in trials:
        record = json.loads((folder / str(trial.number) / "run.json").read_text())
        assert record["status"] == "completed"
        assert record["global_batch"] == trial.params["data.batch_size"]
    assert "best: trial" in done.stdout


@pytest.mark.slow
def test_a_trial_that_is_worse_than_others_is_ended(cli, tiny, tmp_path):
    folder = tmp_path / "search"
    # Better than all right.
    pruner = ("search.pruner=ThresholdPruner", "+search.arguments.ThresholdPruner={lower: 1.1}")
    options = ("search.trials=1", "trainer.max_epochs=50", f"search.folder={folder}", f"hydra.run.dir={folder}/log")
    done = cli(*tiny, *SEARCH, *pruner, *options, cwd=tmp_path)
    assert [trial.state.name for trial in trials_of(folder)] == ["PRUNED"]
    assert json.loads((folder / "0" / "run.json").read_text())["status"] == "pruned"
    assert "no trial was completed" in done.stderr


def test_a_file_that_says_more_than_what_is_searched_is_refused(cli, tmp_path):
    """Its trials are runs of their own, which don't see it."""
    (tmp_path / "conf" / "sweeps").mkdir(parents=True)
    (tmp_path / "conf" / "sweeps" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /task: search\n  - override /optim: adamw\n"
        "search: {space: {optim: {lr: {low: 0.1, high: 0.2}}}}\ntrainer: {max_epochs: 8}\n"
    )
    mine = (f"--config-dir={tmp_path}/conf", "+sweeps=mine")
    done = cli(*mine, f"search.folder={tmp_path}/search", "hydra.run.dir=log", cwd=tmp_path, status=1)
    assert "+sweeps=mine: its file sets optim, trainer, which trials would not have" in done.stderr
