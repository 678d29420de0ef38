"""One side of a comparison: a process that does its work when it is told to.

It imports nothing but the standard library, so that a baseline stays free of this project.
"""

import json
import os
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
        answer = {"seconds": seconds, "peak_gib": peak_gib(), "result": result}
        print(json.dumps(answer), flush=True)


def peak_gib() -> float:
    """This process's high-water mark of resident memory."""
    # Linux lets a process inherit ru_maxrss from the one that started it; VmHWM is its own.
    if os.path.exists("/proc/self/status"):
        with open("/proc/self/status") as status:
            line = next(line for line in status if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30  # bytes on macOS
