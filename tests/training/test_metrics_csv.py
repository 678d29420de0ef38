import csv

from hct_lightning.training.metrics_csv import MetricsCSV


def logged(folder, *rows, status="success") -> None:
    """What a run that logs (step, metrics) leaves behind."""
    logger = MetricsCSV(folder)
    for step, metrics in rows:
        logger.log_metrics(metrics, step)
    logger.finalize(status)


def rows_of(folder) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_a_step_whatever_was_logged_when(tmp_path):
    logged(tmp_path, (1, {"epoch": 0, "b": 1.5}), (1, {"a": 2}), (0, {"b": 0.5}))
    assert rows_of(tmp_path) == [
        {"step": "0", "epoch": "", "a": "", "b": "0.5"},
        {"step": "1", "epoch": "0", "a": "2", "b": "1.5"},
    ]


def test_a_resumed_run_replaces_the_steps_that_it_does_again(tmp_path):
    logged(tmp_path, (1, {"a": 1}), (2, {"a": 2}), (3, {"a": 3}), status="failed")
    logged(tmp_path, (2, {"a": 20}), (4, {"c": 40}))
    assert [(row["step"], row["a"], row["c"]) for row in rows_of(tmp_path)] == [
        ("1", "1", ""),
        ("2", "20", ""),
        ("4", "", "40"),
    ]


def test_an_epochs_figures_are_on_the_disk_at_once(tmp_path):
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"train/loss": 1.0}, 1)
    logger.log_metrics({"train/loss": 2.0}, 2)
    logger.log_metrics({"val/loss": 3.0}, 2)
    assert [row["val/loss"] for row in rows_of(tmp_path)] == ["", "3.0"]
