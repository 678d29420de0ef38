"""Tables are whole wherever they go; progress is for terminals."""

from rich.table import Table

from hct_lightning.runs.console import results, track


def test_a_wide_table_is_not_cut_in_a_pipe(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    table = Table(*(f"column {i}" for i in range(12)))
    table.add_row(*(f"value {i:02d}" for i in range(12)))
    results().print(table)
    shown = capsys.readouterr().out
    assert all(f"value {i:02d}" in shown for i in range(12))


def test_columns_of_the_environment_count(monkeypatch):
    monkeypatch.setenv("COLUMNS", "97")
    assert results().width == 97


def test_progress_leaves_the_items_as_they_are_and_a_pipe_clean(capsys):
    assert list(track("counting", iter([3, 1, 2]), 3)) == [3, 1, 2]
    assert capsys.readouterr().err == ""
