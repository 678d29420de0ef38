import pytest

from hct_lightning.report.files import open_runs, read_profile


def test_what_a_run_holds(full_run):
    (run,) = open_runs([full_run])
    assert run.name == "run"
    assert run.metrics["val/loss"] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]  # by epoch
    assert run.metrics["lr-Adam"] == [(0, 0.1)]  # by step
    assert run.command == "python -m hct_lightning trainer.devices=1 'data.root=my photos'"
    assert len(run.predictions.labels) == 6
    assert run.artifacts.keys() == run.percentages.keys() == {"openvino_int8"}
    assert run.benchmark["title"] == "Inference"
    assert run.mean_s("run_s") == pytest.approx(1.2)
    assert run.per_image_s("run_s") == pytest.approx(0.1)


def test_everything_but_run_json_may_be_missing(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    (run,) = open_runs([tmp_path])
    assert not any((run.metrics, run.predictions, run.artifacts, run.percentages, run.benchmark, run.operators))
    assert run.ranks == 1
    assert run.mean_s("run_s") is run.per_image_s("run_s") is run.accuracy is None


def test_runs_are_told_apart_by_the_shortest_names(make_run):
    folders = [make_run("x/a"), make_run("y/a"), make_run("b")]
    assert [run.name for run in open_runs(folders[1:])] == ["a", "b"]
    assert [run.name for run in open_runs(folders)][:2] == ["x/a", "y/a"]
    assert len(open_runs([folders[0], folders[0]])) == 1


def test_no_run_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nothing is not the folder of a run: there is no run\.json"):
        open_runs([tmp_path / "nothing"])


@pytest.mark.parametrize(
    ("file", "text", "part"),
    [
        ("run.json", "{", "record"),
        ("metrics.csv", "step,epoch,val/loss\nx,0,1\n", "metrics"),
        ("benchmark/benchmark.json", "[]", "benchmark"),
    ],
)
def test_a_damaged_file_is_named(full_run, file, text, part):
    (full_run / file).write_text(text)
    (run,) = open_runs([full_run])
    with pytest.raises(ValueError, match=f"{file} is damaged"):
        getattr(run, part)


def test_the_profilers_table(full_run):
    rows = read_profile((full_run / "profile" / "fit-summary-0.txt").read_text())
    assert [row["Name"] for row in rows] == ["ProfilerStep*", "aten::add", "aten::convolution"]
    assert rows[2]["Self CPU %"] == "70.25%"
    assert read_profile("no table") == []


def test_the_command_shows_what_was_typed_and_not_what_this_environment_says(make_run, monkeypatch):
    """A stranger's folder could have the secrets of whoever makes a report of it shown there."""
    monkeypatch.setenv("CANARY", "canary-value")
    folder = make_run()
    (folder / ".hydra" / "overrides.yaml").write_text("- data.root=${oc.env:CANARY}\n- '~callbacks.progress'\n")
    (found,) = open_runs([folder])
    assert found.command == "python -m hct_lightning 'data.root=${oc.env:CANARY}' '~callbacks.progress'"
