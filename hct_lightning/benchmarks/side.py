"""One side of a comparison: a process that does its work when it is told to.

It imports nothing but the standard library, so that a baseline stays free of this project.
"""

import json
import resource
import sys
import time
from collections.abc import Callable


def serve(work: Callable[[], object], **facts: object) -> None:
    """Answers each line on standard input by doing `work` once and printing its seconds as JSON.

    `facts` go with the first line, printed when the side is ready; what `work` returns, a number, goes
    with its seconds.
    """
    print(json.dumps(facts), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 2**30
        print(json.dumps({"seconds": seconds, "peak_gib": peak, "result": result}), flush=True)
