"""Where people read: tables of results on standard output, progress on standard error."""

import os
import sys
from collections.abc import Iterable
from typing import TypeVar

from rich import progress
from rich.console import Console

T = TypeVar("T")


def results() -> Console:
    """Standard output. In a pipe or a file it is wide, so that no table is cut off."""
    wide = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=160 if wide else None)


def track(what: str, items: Iterable[T], total: int) -> Iterable[T]:
    """The items, with a progress bar named `what` where standard error is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        return items
    return progress.track(items, what, total, console=console)
