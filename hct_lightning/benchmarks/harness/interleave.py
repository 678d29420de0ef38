"""Measures several sides in turn, each in a process of its own."""

import contextlib
import json
import logging
import os
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

log = logging.getLogger(__name__)

GRACE_S = 20  # for a side to end by itself


class Measured(NamedTuple):
    """What one side took.

    seconds: of every counted call.
    first_s: of the very first call, which is not counted where there is a warm-up.
    peak_gib: the process's high-water mark.
    facts: what the side said of itself.
    results: what the work of every counted call gave.
    """

    seconds: list[float]
    first_s: float
    peak_gib: float
    facts: dict[str, Any]
    results: list[Any]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def interleave(sides: Mapping[str, Sequence[str]], *, warmup: int, rounds: int) -> dict[str, Measured]:
    """Starts every side, then lets one call of each follow the other.

    Only one side works at a time, and each round has all of them, so that a machine that gets
    slower does so for everyone.

    Args:
        sides: commands of processes that call `side.serve`, by name.
        warmup: calls of each that don't count.
        rounds: calls of each that do.

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
            running[name] = process
            results[name] = Measured([], 0.0, 0.0, _answer(name, process), [])
            log.info("ready: %s", name)
        for turn in range(warmup + rounds):
            for name, process in running.items():
                process.stdin.write("go\n")
                answer = _answer(name, process)
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


def _answer(name: str, process: subprocess.Popen) -> dict[str, Any]:
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        raise RuntimeError(f"the side {name} ended with status {process.wait()}; see its error above")
    return json.loads(line)


def paired_ratio(slow: Measured, fast: Measured) -> float:
    """The median over rounds of slow / fast."""
    return statistics.median(a / b for a, b in zip(slow.seconds, fast.seconds, strict=True))
