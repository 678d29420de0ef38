"""What an offline W&B run really holds, read back from its file."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from wandb_files import pieces, read

from hct_lightning.callbacks.wandb_run import curve_charts, thinned
from hct_lightning.report.predictions import JudgedImages
from hct_lightning.report.wandb_workspace import LINES, STEP, TABLES

SECRET = "canary-of-a-secret"


@pytest.fixture(scope="module")
def run(cli, tiny, tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("wandb")
    options = ("logger=wandb", "logger.wandb.mode=offline", "logger.wandb.log_model=true", f"+mine.api_key={SECRET}")
    options += ("export=[torchscript_int8]",)
    cli(*tiny, *options, f"hydra.run.dir={home}/run", cwd=home)
    return home / "run"


def test_configuration_curves_confusion_and_samples(run):
    config, history, ids = read(run)
    assert config["data"]["resolution"] == 128
    assert config["global_batch"] == 4
    assert config["optim"]["optimizer"]["_target_"] == "torch.optim.AdamW"
    assert len(history["val/accuracy"]) == 2
    assert history["lr-AdamW/pg1"][0] > 0
    assert any(key.startswith("val/confusion") for key in history)
    assert ids == {json.loads((run / "run.json").read_text())["id"]}


def table(run: Path, name: str) -> dict:
    """The table that was logged last under a name."""
    (last,) = run.rglob(f"media/table/**/{name}*.table.json")
    return json.loads(last.read_text())


def test_what_a_newcomer_finds_runs_by(run):
    """The name is the folder's, and W&B's own lists have job types and tags."""
    (piece,) = pieces(run)
    about = next(record.run for record in piece if record.run.run_id)
    assert (about.display_name, about.job_type, list(about.tags)) == ("run", "fit", ["scenes", "hct"])
    assert about.run_group == ""
    assert any(record.WhichOneof("record_type") == "stats" for record in piece), "system metrics"


def test_the_worst_and_the_surest_predictions_with_their_images(run):
    found = table(run, "predictions")
    assert found["columns"] == [
        *("image", "label", "predicted", "probability"),
        *("probability of the label", "kind", "file"),
    ]
    kinds = [row[5] for row in found["data"]]
    assert kinds.count("worst") == 8
    assert 0 < kinds.count("surest") <= 8
    true = [row[4] for row in found["data"] if row[5] == "worst"]
    assert true == sorted(true)
    (kept,) = [r.artifact for r in pieces(run)[0] if "valpredictions" in r.artifact.name]
    images = [Path(entry.local_path) for entry in kept.manifest.contents if entry.path.startswith("media/images/")]
    assert len(images) == len({row[6] for row in found["data"]})
    assert all(file.exists() and file.is_relative_to(run) for file in images), "all of a run lies in its folder"


def test_charts_of_roc_and_precision(run):
    for name, columns in (
        ("roc", ["class", "false positive rate", "true positive rate"]),
        ("precision_recall", ["class", "recall", "precision"]),
    ):
        found = table(run, f"{name}_table")
        assert found["columns"] == columns
        assert {row[0] for row in found["data"]} <= {"dots", "grid", "rings", "stripes"}
        assert all(0 <= value <= 1 for row in found["data"] for value in row[1:])


def test_charts_of_many_points_are_thinned():
    assert thinned(5, 100).tolist() == [0, 1, 2, 3, 4]
    kept = thinned(100_000, 5000)
    assert (len(kept), kept[0], kept[-1]) == (5000, 0, 99_999)
    probabilities = np.random.default_rng(0).dirichlet([1, 1], 30_000)
    found = JudgedImages(["a"] * 30_000, np.arange(30_000) % 2, probabilities, ["x", "y"], Path("best.csv"))
    assert [name for name, _ in curve_charts(found)] == ["val/roc", "val/precision_recall"]


def test_the_summary_has_the_best_and_what_was_measured_at_the_end(run):
    summary, metrics = {}, {}
    for record in pieces(run)[0]:
        for update in record.summary.update:
            summary[update.key or "/".join(update.nested_key)] = json.loads(update.value_json)
        if record.metric.name:
            metrics[record.metric.name] = record.metric.summary
    assert metrics["val/accuracy"].max
    assert metrics["val/loss"].min
    assert summary["parameters"] == 1_739_092
    assert summary["validation_images"] == 10
    assert 0 <= summary["calibration_error"] <= 1


def test_the_workspace_shows_keys_that_a_run_logs(run):
    _, history, _ = read(run)
    wanted = {STEP} | {key for charts in LINES.values() for keys in charts.values() for key in keys}
    assert wanted <= history.keys()
    for key in (key for keys in TABLES.values() for key in keys):
        assert any(logged.startswith(key) for logged in history), key


def test_a_secret_is_nowhere_but_in_hydras_files_which_are_their_owners(run):
    held = [path for path in run.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert {path.parent.name for path in held} == {".hydra"}
    assert not [path for path in held if path.stat().st_mode & 0o077]
    config, *_ = read(run)
    assert config["mine"]["api_key"] == "***"
    assert b"+mine.api_key=***" in next(run.rglob("*.wandb")).read_bytes(), "the command line is there without it"


def test_what_was_exported_and_what_it_costs(run):
    _, history, _ = read(run)
    metrics = json.loads((run / "artifacts/torchscript_int8/artifact.json").read_text())["metrics"]
    for key in ("time_ms", "accuracy", "accuracy_fp32", "agreement", "sqnr_db"):
        assert history[f"export/torchscript_int8/{key}"] == [metrics[key]]
    assert 0.5 < history["export/torchscript_int8/size_mb"][0] < 7


def test_the_models_of_a_run_are_there(run):
    run_id = json.loads((run / "run.json").read_text())["id"]
    models = {record.artifact.name: record.artifact for record in pieces(run)[0] if record.artifact.type == "model"}
    assert models.keys() == {f"model-{run_id}", f"torchscript_int8-{run_id}"}
    assert json.loads(models[f"torchscript_int8-{run_id}"].metadata)["metrics"]["images"] == 10
    files = [Path(entry.local_path) for model in models.values() for entry in model.manifest.contents]
    assert all(file.exists() and file.is_relative_to(run) for file in files), "all of a run lies in its folder"


@pytest.mark.slow
@pytest.mark.timeout(900)  # three runs, one after the other
def test_after_preemption_no_row_is_lost(cli, tiny, tmp_path):
    """A run is killed behind its last checkpoint, and does those steps again: W&B takes rows of rising numbers alone."""
    folder = tmp_path / "run"
    options = ("logger=wandb", "logger.wandb.mode=offline", "export=[]")
    short = [option.replace("max_epochs=2", "max_epochs=1") for option in tiny]
    cli(*short, *options, f"hydra.run.dir={folder}", cwd=tmp_path)
    shutil.copy(folder / "checkpoints" / "last.ckpt", tmp_path / "earlier.ckpt")
    cli(f"run={folder}", "trainer.max_epochs=2", cwd=tmp_path)
    # As if it had been killed before it saved.
    shutil.copy(tmp_path / "earlier.ckpt", folder / "checkpoints" / "last.ckpt")
    cli(f"run={folder}", "trainer.max_epochs=2", cwd=tmp_path)

    found = pieces(folder)
    assert len(found) == 3
    steps = [record.history.step.num for piece in found for record in piece if record.history.item]
    assert len(steps) > 20
    assert steps == sorted(set(steps)), "each above the one before"
    _, history, ids = read(folder)
    assert len(ids) == 1
    assert history["val/accuracy"][1] == history["val/accuracy"][2], "done again, it is the same"
    assert len(history["val/accuracy"]) == 3
