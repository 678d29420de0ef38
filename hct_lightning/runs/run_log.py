"""The log of a run, `run.log` in its folder."""

import logging
import os
import sys
from io import TextIOWrapper

from hct_lightning.runs.printable import printable


class RunLog(logging.FileHandler):
    """A run's log; where its folder can't be written, none, which is said once."""

    def _open(self) -> TextIOWrapper:
        try:
            return super()._open()
        except OSError as error:
            print(printable(f"no log is kept: {error}", line=True), file=sys.stderr)
            return open(os.devnull, "w")
