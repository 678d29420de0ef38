"""Files are whole or as they were."""

import csv
import subprocess
import sys
import threading

import pytest

from hct_lightning.runs.files import csv_text, locked, open_whole, write_whole


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


COUNT = """
import sys
from pathlib import Path
from hct_lightning.runs.files import locked, write_whole
path = Path(sys.argv[1])
for _ in range(40):
    with locked(path):
        write_whole(path, str(int(path.read_text()) + 1))
"""


def test_readers_who_write_again_wait_for_each_other(tmp_path):
    """Two processes and two threads count to 160 in one file."""
    path = tmp_path / "count"
    path.write_text("0")

    def add() -> None:
        for _ in range(40):
            with locked(path):
                write_whole(path, str(int(path.read_text()) + 1))

    others = [subprocess.Popen([sys.executable, "-c", COUNT, path]) for _ in range(2)]
    threads = [threading.Thread(target=add) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [other.wait() for other in others] == [0, 0]
    assert path.read_text() == "160"
