"""The file of predictions keeps what was done, takes nothing else for it, and destroys no other file."""

import csv
import logging
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hct_lightning.runs.predictions import Predictions, whole_rows

ODD = ("a, b", 'a "quote"', "line\nfeed", "return\r", "both\r\n", os.fsdecode(b"\xff\xfe"), "ä")
MADE_BY = {"checkpoint": "1", "decoding": {"size": [9, 9]}}


@pytest.fixture
def images(tmp_path) -> list[str]:
    (tmp_path / "images").mkdir()
    for name in ODD:
        (tmp_path / "images" / name).touch()
    return [str(tmp_path / "images" / name) for name in ODD]


Opened = Callable[..., Predictions]


@pytest.fixture
def opened(tmp_path, images) -> Iterator[Opened]:
    """The file as another process finds it."""
    last: list[Predictions] = []

    def opened(**changed) -> Predictions:
        for file in last:
            file.close()
        options = {"images": images, "classes": ("x", "y,\nz"), "made_by": MADE_BY} | changed
        last[:] = [Predictions(tmp_path / "out" / "predictions.csv", **options)]
        last[0].open()
        return last[0]

    yield opened
    for file in last:
        file.close()


def add(file: Predictions, count: int | None = None) -> Predictions:
    """The rows of the next images; the fourth of all could not be read."""
    paths = list(enumerate(file.images))[file.done :][:count]
    file.append([file.row(p, None, "it is\nbroken") if i == 3 else file.row(p, [i / 10, 1 - i / 10]) for i, p in paths])
    return file


@pytest.fixture
def complete(opened) -> bytes:
    """What the complete file holds."""
    file = add(add(opened(), 3))
    file.finish()
    assert [path.name for path in file.path.parent.iterdir()] == [file.path.name]
    content = file.path.read_bytes()
    file.path.unlink()
    return content


def test_odd_names_survive(complete, images, tmp_path):
    (tmp_path / "whole.csv").write_bytes(complete)
    with (tmp_path / "whole.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as text:
        rows = list(csv.DictReader(text))
    assert [row["path"] for row in rows] == images
    assert [row["class"] for row in rows] == ["y,\nz", "y,\nz", "y,\nz", "", "y,\nz", "x", "x"]
    assert rows[2]["p_y,\nz"] == "0.800000"
    assert rows[3] == {"path": images[3], "class": "", "p_x": "", "p_y,\nz": "", "error": "it is\nbroken"}


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("//x"&A1,"a, b")'])
def test_names_that_are_formulas_elsewhere_stand_as_they_are(opened, images, caplog, name):
    """Who reads the file compares them with those that he has; a spreadsheet is to be told that they are text."""
    with caplog.at_level("WARNING"):
        file = opened(classes=(name, "x"), images=[*images[:2], name])
    assert f"has names as {name!r}, which a spreadsheet would compute: import its columns there as text" in caplog.text
    add(file)
    file.finish()
    header, *rows = (row for row, _ in whole_rows(file.path))
    assert header == ["path", "class", f"p_{name}", "p_x", "error"]
    assert [row[:2] for row in rows] == [[images[0], "x"], [images[1], "x"], [name, "x"]]
    with file.path.open(newline="") as text:
        assert [row["path"] for row in csv.DictReader(text)] == [*images[:2], name]


def test_other_names_are_not_warned_of(complete, caplog):
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_cut_off_at_any_byte_it_goes_on_with_whole_rows(complete, opened, tmp_path):
    (tmp_path / "whole.csv").write_bytes(complete)
    ends = [end for _, end in whole_rows(tmp_path / "whole.csv")]
    assert len(ends) == 8
    for cut in range(ends[0], len(complete) + 1, 7):  # the header is written before there are rows
        opened().path.write_bytes(complete[:cut])
        file = opened()
        assert file.done == max(0, sum(end <= cut for end in ends) - 1), cut
        add(file).finish()
        assert file.path.read_bytes() == complete, cut
        file.path.unlink()


def test_it_goes_on_after_the_rows_that_still_hold(opened, images, caplog, tmp_path):
    caplog.set_level(logging.INFO)
    add(opened(), 5)
    assert opened(images=[*images, "one more"]).done == 5
    assert "going on after 5 of 8 images" in caplog.text
    assert opened(images=[*images[:2], "one more", *images[2:]]).done == 2
    assert "row 3" in caplog.text
    add(opened(), 4)
    later = tmp_path / "later"
    later.touch()
    time.sleep(0.02)  # a file system's clock may tick a hundred times a second
    later.replace(images[4])
    assert opened().done == 4, "another file has taken the place of the fifth"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"made_by": MADE_BY | {"checkpoint": "2"}}, "another checkpoint"),
        ({"made_by": MADE_BY | {"decoding": {"size": [9, 8]}}}, "another decoding"),
        ({"classes": ("x", "z")}, "another columns"),
        ({"made_by": MADE_BY | {"background": 3}}, "another background"),
        ({"made_by": {"checkpoint": "1"}}, "another decoding"),
    ],
)
def test_rows_of_something_else_are_not_gone_on_with(opened, caplog, changed, message):
    caplog.set_level(logging.INFO)
    add(opened(), 5)
    file = opened(**changed)
    assert file.done == 0
    assert f"begun anew: its rows are of {message}" in caplog.text
    add(file).finish()
    assert len(list(whole_rows(file.path))) == 8


def test_a_complete_file_is_replaced_and_never_continued(complete, opened, caplog):
    """An image may have changed since."""
    caplog.set_level(logging.INFO)
    add(opened()).finish()
    assert opened().done == 0
    assert "is complete, and replaced" in caplog.text


def test_another_kind_of_file_is_left_as_it_is(opened, tmp_path):
    (tmp_path / "out").mkdir()
    for content in (b"path,label\na.png,x\n", b"\x89PNG", b"path,cla"):
        (tmp_path / "out" / "predictions.csv").write_bytes(content)
        with pytest.raises(ValueError, match=r"predict\.output=.* is there, and no file of predictions"):
            Predictions(tmp_path / "out" / "predictions.csv", [], ("x",), {}).open()
        assert (tmp_path / "out" / "predictions.csv").read_bytes() == content


def test_where_no_file_can_be_written_is_said_before_the_work(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "folder", tmp_path / "file" / "predictions.csv", Path("/proc/predictions.csv")):
        with pytest.raises(ValueError, match=rf"predict\.output={path}: .*; give a file that can be written"):
            Predictions(path, [], ("x",), {}).open()


def test_two_that_write_the_same_file_are_kept_apart(opened, images):
    add(opened(), 2)
    other = Predictions(opened().path, images, ("x", "y,\nz"), MADE_BY)
    with pytest.raises(ValueError, match="is being written by another process"):
        other.open()
    other.close()
    assert opened().done == 2


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """A write beyond it fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_keeps_what_was_done(complete, opened):
    file = add(opened(), 2)
    with (
        no_file_beyond(file.path.stat().st_size + 20),
        pytest.raises(OSError, match=r"predictions\.csv: File too large"),
    ):
        add(file)
    assert file.done == 2
    assert len(file.path.read_bytes()) > next(end for _, end in list(whole_rows(file.path))[2:]), "a row is cut off"
    file = opened()
    assert file.done == 2
    add(file).finish()
    assert file.path.read_bytes() == complete


def test_an_answer_that_is_not_finite_is_none(opened):
    row = opened().row("a.png", [float("nan"), 0.5])
    assert row == ["a.png", "", "", "", "the network's answer is not finite"]


def test_without_its_note_it_is_not_gone_on_with(opened, tmp_path):
    """Killed between the header and the note, or the note is damaged."""
    file = add(opened(), 2)
    file.unfinished.write_text("{")
    assert opened().done == 0
    add(opened(), 2)
    shutil.move(file.unfinished, tmp_path / "elsewhere")
    assert opened().done == 0
