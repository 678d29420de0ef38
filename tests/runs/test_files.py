"""Files are whole or as they were."""

import csv

import pytest

from hct_lightning.runs.files import csv_text, open_whole, write_whole


def test_an_interrupted_write_leaves_the_earlier_file_and_nothing_else(tmp_path):
    path = tmp_path / "run.json"
    write_whole(path, "earlier ä")

    def half() -> None:
        with open_whole(path) as file:
            file.write(b"half")
            assert path.read_text(encoding="utf-8") == "earlier ä"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert path.read_text(encoding="utf-8") == "earlier ä"
    assert list(tmp_path.iterdir()) == [path]


def test_rows_come_back_from_csv():
    rows = [["path", "reason"], ["a, b.png", 'a "quote"\nand a line']]
    assert list(csv.reader(csv_text(rows).splitlines(keepends=True))) == rows
