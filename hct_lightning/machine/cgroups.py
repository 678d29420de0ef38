"""What control groups leave a process: the limits of containers, of Slurm's jobs and of systemd's scopes."""

import contextlib
from pathlib import Path

# By version: the limit, what is taken, and what of that the page cache holds and nobody has used lately.
_NEWER = ("memory.max", "memory.current", "inactive_file")
_OLDER = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def memory_left(own: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes of memory that this process's group and those above it leave, the least of them; None without a limit.

    Args:
        own: says which groups the process is in.
        mounted: where their files lie.
    """
    left = []
    with contextlib.suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            top, names = (mounted / "memory", _OLDER) if controllers else (mounted, _NEWER)
            group = top / path.lstrip("/")
            for place in (group, *group.parents):
                # `max` is no number, and a container sees its own group at the top alone.
                with contextlib.suppress(OSError, ValueError):
                    left.append(_left(place, *names))
                if place == top:
                    break
    return min(left, default=None)


def _left(group: Path, limit: str, taken: str, cached: str) -> int:
    most, now = (int((group / name).read_text()) for name in (limit, taken))
    counts = {}
    with contextlib.suppress(OSError):
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return max(0, most - now + int(counts.get(cached, 0)))
