"""Measures several sides in turn, each in a process of its own."""

import contextlib
import json
import logging
import os
import resource
import signal
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

log = logging.getLogger(__name__)

GRACE_S = 20  # for a side to end by itself
REST_S = 0.1  # at most, for its threads to come to rest
READINGS = 3  # in a row that show them at rest, for not all are read at one time


class Measured(NamedTuple):
    """What one side took.

    seconds: of every counted call.
    first_s: of the very first call, which is not counted where there is a warm-up.
    peak_gib: the process's high-water mark.
    facts: what the side said of itself.
    results: what the work of every counted call gave.
    failed: why there are no seconds, where there are none.
    """

    seconds: list[float]
    first_s: float
    peak_gib: float
    facts: dict[str, Any]
    results: list[Any]
    failed: str | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def interleave(
    sides: Mapping[str, Sequence[str]], *, warmup: int, rounds: int, most_bytes: int | None = None
) -> dict[str, Measured]:
    """Starts every side, then lets one call of each follow the other.

    Only one side works at a time: the next one begins when the threads of the last one rest. Each round has all of
    them, so that a machine that gets slower does so for everyone.

    Args:
        sides: commands of processes that call `side.serve`, by name.
        warmup: calls of each that don't count.
        rounds: calls of each that do.
        most_bytes: of memory that each may take. A side that needs more, or that the system kills, is measured no
            further, and says in `failed` why. None: there is no limit, and that is an error too.

    Raises:
        RuntimeError: when a side dies, with what it said.
    """
    with contextlib.ExitStack() as stack:
        running, results = {}, {}
        for name, command in sides.items():
            process = stack.enter_context(
                subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    bufsize=1,
                    env=os.environ | {"PYTHONWARNINGS": "ignore"},
                )
            )
            stack.callback(process.kill)
            if most_bytes and hasattr(resource, "prlimit"):  # on Linux
                resource.prlimit(process.pid, resource.RLIMIT_DATA, (most_bytes, most_bytes))
            running[name] = process
            results[name] = Measured([], 0.0, 0.0, _answer(name, process), [])
            _rest(process.pid)
            log.info("ready: %s", name)
        for turn in range(warmup + rounds):
            for name, process in list(running.items()):
                process.stdin.write("go\n")
                answer = _answer(name, process, may_fail=most_bytes is not None)
                _rest(process.pid)
                if "failed" in answer:
                    log.warning("%s: %s, left out", name, answer["failed"])
                    results[name] = Measured([], 0.0, 0.0, results[name].facts, [], answer["failed"])
                    running.pop(name).wait()
                    continue
                if turn >= warmup:
                    results[name].seconds.append(answer["seconds"])
                    results[name].results.append(answer.get("result"))
                results[name] = results[name]._replace(
                    peak_gib=answer["peak_gib"], first_s=results[name].first_s or answer["seconds"]
                )
            log.info("round %d of %d", turn + 1, warmup + rounds)
        for process in running.values():
            process.stdin.close()
        for process in running.values():  # one may have processes of its own to end
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
    return results


def _rest(process: int) -> None:
    """Waits until no thread of it works, or for `REST_S`, as it does where there is no `/proc`.

    Threads of OpenMP, which PyTorch has, spin for 4 ms before they sleep, and would take a CPU from the next side.
    """
    end, seen = time.monotonic() + REST_S, 0
    while seen < READINGS and time.monotonic() < end:
        try:
            stats = [file.read_bytes() for file in Path(f"/proc/{process}/task").glob("*/stat")]
        except OSError:  # a thread has just ended
            continue
        working = not stats or any(stat.rpartition(b")")[2].split()[0] == b"R" for stat in stats)
        seen = 0 if working else seen + 1
        time.sleep(0.001)


def _answer(name: str, process: subprocess.Popen, *, may_fail: bool = False) -> dict[str, Any]:
    line = process.stdout.readline() if process.stdout else ""
    if line:
        answer = json.loads(line)
    else:
        status = process.wait()
        answer = {"failed": f"killed by {signal.Signals(-status).name}" if status < 0 else f"status {status}"}
    if "failed" in answer and (not may_fail or answer["failed"].startswith("status")):
        raise RuntimeError(f"the side {name} ended with {answer['failed']}; see its error above")
    return answer


def paired_ratio(slow: Measured, fast: Measured) -> float:
    """The median over rounds of slow / fast, which both have all."""
    return statistics.median(a / b for a, b in zip(slow.seconds, fast.seconds, strict=True))
