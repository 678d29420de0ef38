"""Where people read: tables of results on standard output, progress on standard error. All rules about terminals."""

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, TypeVar

from rich import progress
from rich.console import Console
from rich.text import Text

from hct_lightning.runs.printable import printable

log = logging.getLogger(__name__)

T = TypeVar("T")
FIRST_S, EVERY_S = 5.0, 30.0  # when work that goes on says so where there is no bar
_FEWEST = 32  # results that a time left is said from


def on_terminal(stream: TextIO) -> bool:
    """Whether people see what is written to standard output or error; else it is a pipe or a file."""
    return stream.isatty()


class _Results(Console):
    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


def results() -> Console:
    """Standard output. In a pipe or a file it is wide, so that no table is cut off.

    Names of classes and files are shown as they are, also where Rich would take a part of them for markup; but for
    control characters.
    """
    wide = not on_terminal(sys.stdout) and "COLUMNS" not in os.environ
    return _Results(width=160 if wide else None, markup=False, emoji=False)


def track(what: str, items: Iterable[T], total: int, workers: int = 1) -> Iterable[T]:
    """The items, with a progress bar named `what` where standard error is a terminal, and lines in the log elsewhere.

    Both say the time that is left. What takes less than five seconds leaves no line.

    Args:
        what: is done, for people.
        items: results as they come.
        total: their number.
        workers: that work on them at once.
    """
    if on_terminal(sys.stderr):
        return progress.track(items, what, total, console=Console(stderr=True))
    return _with_lines(what, items, total, workers)


def _with_lines(what: str, items: Iterable[T], total: int, workers: int) -> Iterator[T]:
    """The time left follows from how fast the later half of the results came.

    Before, workers begin, and each loads what a first image of a kind takes.
    """
    came = [time.monotonic()]
    next_line = came[0] + FIRST_S
    for count, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        came.append(now)
        if now >= next_line and count >= max(_FEWEST, 4 * workers):
            left_s = (total - count) * (now - came[count // 2]) / (count - count // 2)
            log.info("%s: %d of %d, about %s left", what, count, total, duration(left_s))
            next_line = now + EVERY_S


class Lines:
    """Says in the log how far something is, at most every half minute: called with what is done, and with all.

    Args:
        what: is done, for people.
        of: what is counted.
    """

    def __init__(self, what: str, of: str) -> None:
        self.what, self.of = what, of
        self._begun = time.monotonic()
        self._next = self._begun + FIRST_S
        self._before: int | None = None  # of them that were done before

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        self._before = done - 1 if self._before is None else self._before
        if now >= self._next and done < total:
            left_s = (total - done) * (now - self._begun) / (done - self._before)
            log.info("%s: %d of %d %s, about %s left", self.what, done, total, self.of, duration(left_s))
            self._next = now + EVERY_S


def duration(seconds: float) -> str:
    """A time for people: `40 s`, `12 min`, `3.5 h`, `2.1 days`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"
