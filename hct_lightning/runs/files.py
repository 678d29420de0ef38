"""Files that are whole or absent, never broken."""

import contextlib
import csv
import fcntl
import io
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def open_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes its place when it is closed and on the disk.

    Readers see the old one or the new one, never a part. Killed at any moment, or with a full disk, the old one stays
    as it was. Threads and processes of a machine may write the same file: one of them is there in the end.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Writes a text file, UTF-8, as `open_whole` does; names of files that are no UTF-8 keep their bytes."""
    with open_whole(path) as file:
        file.write(text.encode(errors="surrogateescape"))


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """One thread of one process at a time, for what reads the file `path` and writes it anew.

    The lock is a hidden file beside it, which stays. Where the disk has no locks, or no room, it goes on without.
    """
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            file = held.enter_context(path.with_name(f".{path.name}.lock").open("a"))  # a link's file is not emptied
            fcntl.flock(file, fcntl.LOCK_EX)  # of this opening of the file: threads, too, wait for each other
        yield


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Rows as comma-separated values, a line feed behind each."""
    return "".join(map(_csv_line, rows))


def _csv_line(row: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(row)  # its own line end is \r\n, so it quotes both where they stand in a value
    return text.getvalue().removesuffix("\r\n") + "\n"
