"""Text for people, without control characters: names of files and classes may come from strangers."""

import copy
import logging
import re

# What a terminal obeys instead of showing it: it could hide text, or forge it.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_BREAK = re.compile(r"[\t\n\x85\u2028\u2029]")


def printable(text: str, *, line: bool = False) -> str:
    """The text with control characters escaped, as `\\x1b`: names of files and classes may come from strangers.

    Args:
        text: to be shown.
        line: whether it is a line, so that breaks and tabs are escaped too.
    """
    text = _CONTROL.sub(_escape, text)
    return _BREAK.sub(_escape, text) if line else text


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


class Printable(logging.Formatter):
    """A log's lines without control characters. What we say ourselves is one line, but for tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        ours = record.name.startswith("hct_lightning") and record.levelno > logging.DEBUG
        shown = copy.copy(record)  # other handlers have the record itself
        shown.msg, shown.args = printable(record.getMessage(), line=ours), ()
        return printable(super().format(shown))
