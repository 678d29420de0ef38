"""One side of a comparison: a process that does its work when it is told to.

It imports little but the standard library, so that a baseline stays free of this project.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from hct_lightning.machine.high_water import peak_gib
from hct_lightning.runs import out_of_memory


def process(side: Callable[..., None], **arguments: Any) -> list[str]:
    """The command of a process that calls `side`, a function of a module, with these arguments; it must `serve`."""
    where = f"{side.__module__}:{side.__name__}"
    return [sys.executable, "-m", "hct_lightning.benchmarks.harness", where, json.dumps(arguments, default=str)]


def serve(work: Callable[[], object], *, peak: Callable[[], float] = peak_gib, **facts: object) -> None:
    """Answers each line on standard input by doing `work` once and printing its seconds as JSON.

    `facts` go with the first line, printed when the side is ready; what `work` returns, a number, goes
    with its seconds, and so does the `peak` of memory. Work on a GPU must wait for its end. Where the memory does
    not suffice it says so, and ends.
    """
    print(json.dumps(facts), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        try:
            result = work()
        except Exception as error:
            if not out_of_memory.shows_in(error):
                raise
            print(json.dumps({"failed": "out of memory"}), flush=True)
            return
        seconds = time.perf_counter() - start
        answer = {"seconds": seconds, "peak_gib": peak(), "result": result}
        print(json.dumps(answer), flush=True)
