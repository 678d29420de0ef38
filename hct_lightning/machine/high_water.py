"""The memory that this process holds, and the most that it has held. Imports nothing of ours, so that baselines may use it too."""

import os
import resource
import sys


def peak_gib() -> float:
    """The high-water mark of resident memory since the process began."""
    # Linux lets a process inherit ru_maxrss from the one that started it; VmHWM is its own.
    if os.path.exists("/proc/self/status"):
        with open("/proc/self/status") as status:
            line = next(line for line in status if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def resident_bytes() -> int:
    """What it holds now; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
