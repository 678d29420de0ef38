"""Where people read: tables of results on standard output, progress on standard error. All rules about terminals."""

import os
import sys
from collections.abc import Iterable
from typing import TextIO, TypeVar

from rich import progress
from rich.console import Console

T = TypeVar("T")


def on_terminal(stream: TextIO) -> bool:
    """Whether people see what is written to standard output or error; else it is a pipe or a file."""
    return stream.isatty()


def results() -> Console:
    """Standard output. In a pipe or a file it is wide, so that no table is cut off."""
    wide = not on_terminal(sys.stdout) and "COLUMNS" not in os.environ
    return Console(width=160 if wide else None)


def track(what: str, items: Iterable[T], total: int) -> Iterable[T]:
    """The items, with a progress bar named `what` where standard error is a terminal."""
    if not on_terminal(sys.stderr):
        return items
    return progress.track(items, what, total, console=Console(stderr=True))
