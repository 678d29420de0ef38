"""The CSV file of predictions: it grows by whole rows, and goes on where it was stopped."""

import csv
import fcntl
import io
import itertools
import json
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hct_lightning.runs.files import csv_text, write_whole

log = logging.getLogger(__name__)

Row = list[str]
START = b"path,class,"  # of every such file
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what spreadsheets compute instead of showing it (OWASP: CSV injection)


class Predictions:
    """A row an image, in the order of the images: path, class, a probability for each class, error.

    As long as rows are missing, `<file>.unfinished` stands beside the file and says what its rows depend on. Opened
    again with the same, the file keeps its rows up to the first of another image, or of one that has changed since.
    Any other file of predictions is begun anew. Names stand in the file as they are, those too that a spreadsheet takes
    for formulas (programs compare them), and bytes of a path that are not UTF-8.

    Args:
        path: of the CSV file.
        images: paths, all that get a row.
        classes: their names, in the order of the probabilities.
        made_by: what a row depends on beside its image, in JSON's types, by the names that a message may use.

    Attributes:
        done: rows that the file has.
    """

    def __init__(self, path: Path, images: Sequence[str], classes: Sequence[str], made_by: Mapping[str, Any]) -> None:
        self.path = path
        self.images = images
        self.classes = classes
        self.header = ["path", "class", *(f"p_{name}" for name in classes), "error"]
        self.made_by = {**made_by, "columns": self.header}
        self.unfinished = path.with_name(f"{path.name}.unfinished")
        self.done = 0
        self._file: io.FileIO | None = None

    def open(self) -> int:
        """Makes the file ready for the next row, says what becomes of an earlier one, and gives `done`.

        Raises:
            ValueError: when it can't be written, is another kind of file, or is being written by another process.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = io.FileIO(self.path, "a+")
            _lock(self._file)
            if ends := self._kept():
                self.done = len(ends) - 1
                self._file.truncate(ends[-1])
                log.info("going on after %d of %d images in %s", self.done, len(self.images), self.path)
            else:
                self._begin()
        except ValueError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise ValueError(
                f"predict.output={self.path}: {error.strerror or error}; give a file that can be written"
            ) from error
        if found := [name for name in (*self.classes, *self.images) if name.startswith(_FORMULA)]:
            log.warning(
                "%s has names as %r, which a spreadsheet would compute: import its columns there as text",
                *(self.path, found[0]),
            )
        return self.done

    def _kept(self) -> list[int]:
        """Where the header and each row ends that can be kept; empty where the file is to be begun anew.

        Raises:
            ValueError: when it is no file of predictions.
        """
        with self.path.open("rb") as file:
            start = file.read(len(START))
        if not start:
            return []
        if start != START:
            raise ValueError(f"predict.output={self.path} is there, and no file of predictions; give another name")
        if not self.unfinished.exists():
            log.info("%s is complete, and replaced", self.path)
            return []
        if other := self._made_otherwise():
            log.info("%s is begun anew: its rows are of another %s", self.path, other)
            return []
        since = self.unfinished.stat().st_ctime_ns
        rows = whole_rows(self.path)
        ends = [end for _, end in itertools.islice(rows, 1)]
        for (row, end), image in zip(rows, self.images, strict=False):
            if row[:1] != [image] or _changed(image, since):
                log.info("row %d of %s is not that of %s as it is now", len(ends), self.path, image)
                break
            ends.append(end)
        return ends

    def _made_otherwise(self) -> str:
        """What the rows that are there depend on, and the new ones don't, in words."""
        try:
            earlier = json.loads(self.unfinished.read_text())
            names = [*self.made_by, *(earlier.keys() - self.made_by.keys())]
            return " and ".join(name for name in names if earlier.get(name) != self.made_by.get(name))
        except (ValueError, AttributeError):
            return "kind"

    def _begin(self) -> None:
        """Writes the header. Killed at any moment, no earlier row is taken for one of this file."""
        assert self._file
        self.unfinished.unlink(missing_ok=True)
        self._file.truncate(0)
        self._write([self.header])
        write_whole(self.unfinished, json.dumps(self.made_by, indent=2) + "\n")

    def row(self, path: str, probabilities: Sequence[float] | None, error: str = "") -> Row:
        """The row of an image: its answer, or why there is none."""
        if probabilities and not all(map(math.isfinite, probabilities)):
            probabilities, error = None, "the network's answer is not finite"
        if probabilities is None:
            return [path, "", *("" for _ in self.classes), error]
        winner = max(range(len(probabilities)), key=probabilities.__getitem__)
        return [path, self.classes[winner], *(f"{p:.6f}" for p in probabilities), error]

    def append(self, rows: Sequence[Row]) -> None:
        """Adds the rows of the next images; they are in the file when this returns.

        Raises:
            OSError: naming the file; it then ends with a row that is cut off, which `open` takes away.
        """
        try:
            self._write(rows)
        except OSError as error:
            raise OSError(f"{self.path}: {error.strerror}; make room, and predict again to go on") from error
        self.done += len(rows)

    def _write(self, rows: Iterable[Row]) -> None:
        assert self._file, "it is open"
        text = memoryview(csv_text(rows).encode(errors="surrogateescape"))
        while text:
            text = text[self._file.write(text) :]

    def finish(self) -> None:
        """Closes the file, which has all its rows."""
        assert self._file
        assert self.done == len(self.images)
        os.fsync(self._file.fileno())
        self.unfinished.unlink()
        self.close()

    def close(self) -> None:
        """Lets others write the file."""
        if self._file:
            self._file.close()


def whole_rows(path: Path) -> Iterator[tuple[Row, int]]:
    """The rows of a CSV file up to one that is cut off, each with the number of bytes up to its end."""
    taken, ended = 0, False

    def lines() -> Iterator[str]:
        nonlocal taken, ended
        for line in file:
            taken += len(line)
            ended = line.endswith(b"\n")
            yield line.decode(errors="surrogateescape")

    with path.open("rb") as file:
        rows = csv.reader(lines(), strict=True)
        while True:
            try:
                row = next(rows)
            except (StopIteration, csv.Error):  # the end of the file, perhaps within quotes
                return
            if not ended:
                return
            yield row, taken


def _changed(path: str, since_ns: int) -> bool:
    """Whether a file's content or name is younger than that."""
    try:
        return os.stat(path).st_ctime_ns > since_ns
    except OSError:
        return False  # reading it will say why


def _lock(file: io.FileIO) -> None:
    """Keeps other processes from writing the file as long as it is open, where the file system can.

    Raises:
        ValueError: when another process does that.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(
            f"predict.output={file.name} is being written by another process; wait for it, or give another name"
        ) from error
    except OSError:
        log.debug("%s can't be locked", file.name)
