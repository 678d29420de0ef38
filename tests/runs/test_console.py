"""Tables are whole wherever they go; progress is for terminals."""

import itertools
import logging
from types import SimpleNamespace

import pytest
from rich.table import Table

from hct_lightning.runs import console
from hct_lightning.runs.console import Lines, duration, results, track


def test_a_wide_table_is_not_cut_in_a_pipe(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    table = Table(*(f"column {i}" for i in range(12)))
    table.add_row(*(f"value {i:02d}" for i in range(12)))
    results().print(table)
    shown = capsys.readouterr().out
    assert all(f"value {i:02d}" in shown for i in range(12))


def test_names_are_shown_as_they_are(capsys):
    table = Table("[red]", "[/]", title="[b]x")
    table.add_row("[/class]", ":smile:")
    results().print(table, "[link=x]")
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("[red]", "[/]", "[b]x", "[/class]", ":smile:", "[link=x]"))


def test_tables_obey_no_control_characters(capsys):
    table = Table("image", "class\x1b[2J", title="\x1b]0;x\x07")
    table.add_row("a.png", "dog\x1b[8m\x9b")
    results().print(table)
    results().print("cat\x1b[2J", soft_wrap=True)
    out = capsys.readouterr().out
    assert not {"\x1b", "\x07", "\x9b"} & set(out)
    for shown in (r"class\x1b[2J", r"dog\x1b[8m\x9b", r"cat\x1b[2J"):
        assert shown in out


def test_columns_of_the_environment_count(monkeypatch):
    monkeypatch.setenv("COLUMNS", "97")
    assert results().width == 97


def test_progress_leaves_the_items_as_they_are_and_a_pipe_clean(capsys):
    assert list(track("counting", iter([3, 1, 2]), 3)) == [3, 1, 2]
    assert capsys.readouterr().err == ""


def test_work_that_goes_on_says_what_is_left_where_there_is_no_bar(clock, monkeypatch, caplog):
    """Two workers that start for a second, then give two results each 0.04 s."""
    monkeypatch.setattr(console, "time", clock)
    monkeypatch.setattr(console, "FIRST_S", 0.3)
    monkeypatch.setattr(console, "EVERY_S", 0.15)

    def working():
        clock.sleep(1)
        for i in range(50):
            clock.sleep(0.04 * (i % 2))
            yield i

    with caplog.at_level(logging.INFO, "hct_lightning"):
        assert list(track("working", working(), 50_000, workers=2)) == list(range(50))
    first, *more = [record.message for record in caplog.records]
    assert first == "working: 32 of 50000, about 17 min left"  # at 0.02 s
    assert len(more) == 2


def test_what_workers_load_before_they_are_fast_does_not_count(clock, monkeypatch, caplog):
    """The first images of each format are slow: the time left is that of the others."""
    monkeypatch.setattr(console, "time", clock)
    monkeypatch.setattr(console, "FIRST_S", 0.9)

    def working():
        for i in range(60):
            clock.sleep(0.1 if i < 8 else 0.02)
            yield i

    with caplog.at_level(logging.INFO, "hct_lightning"):
        list(track("working", working(), 1000, workers=2))
    assert [record.message for record in caplog.records] == ["working: 32 of 1000, about 19 s left"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89, "89 s"), (91, "2 min"), (5000, "83 min"), (9000, "2.5 h"), (2e5, "2.3 days")],
)
def test_durations_are_for_people(seconds, text):
    assert duration(seconds) == text


def test_lines_say_how_far_it_is(monkeypatch, caplog):
    """Of twelve parts two were done before; each takes 20 seconds."""
    now = itertools.count(0, 20)
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: next(now)))
    lines = Lines("a.tif", "tiles")
    with caplog.at_level(logging.INFO, "hct_lightning"):
        for done in range(3, 13):
            lines(done, 12)
    said = [record.message for record in caplog.records]
    assert said[0] == "a.tif: 3 of 12 tiles, about 3 min left"
    assert said[1] == "a.tif: 5 of 12 tiles, about 2 min left"
    assert len(said) == 5
