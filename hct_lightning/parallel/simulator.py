"""Time, staleness and idleness of the schemes, for hundreds of workers and any delays, without training anything.

What is simulated is the order of events: a worker computes for a time that is drawn, its gradient arrives, and
`Arrivals` says what follows. Sending takes no time.
"""

import heapq
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hct_lightning.parallel.delays import Delays
from hct_lightning.parallel.schemes import Arrivals, Scheme

_DRAWN = 512  # times of a worker that are drawn at once


class Simulated(NamedTuple):
    """What came out.

    update_s: seconds per update of the weights, on average.
    staleness: of the gradients that counted, updates, on average.
    idle: share of the workers' time in which they waited for weights.
    dropped: share of the gradients that were begun and did not count.
    """

    update_s: float
    staleness: float
    idle: float
    dropped: float


def simulate(
    scheme: Scheme, workers: int, delays: Delays, *, updates: int, seed: int = 0, epoch: int | None = None
) -> Simulated:
    """What updates of the weights take and bring, from workers that all begin at time 0.

    Args:
        scheme: the rule.
        workers: their number.
        delays: how long they take for a gradient.
        updates: to simulate.
        seed: of the delays.
        epoch: all begin anew after so many updates, and drop what they compute; None: never.

    Raises:
        ValueError: where the scheme can't be had with so many workers.
    """
    scheme.check(workers)
    arrivals = Arrivals(scheme, range(workers), meets=lambda version: epoch is not None and version % epoch == 0)
    computing = _Computing(workers, delays, np.random.default_rng(seed))
    computing.begin(arrivals.workers, 0.0, 0)
    stale = counted = 0
    now = 0.0
    while arrivals.version < updates:
        now, worker, version = computing.next()
        newest = arrivals.version
        arrival = arrivals.arrives(worker, version)
        if arrival.counts:
            counted += 1
            stale += newest - version
        computing.begin(arrival.begin, now, arrivals.version)
    computing.stop(now)
    return Simulated(
        update_s=now / updates,
        staleness=stale / counted,
        idle=computing.idle_s / (now * workers) if now else 0.0,
        dropped=computing.dropped / (counted + computing.dropped),
    )


class _Computing:
    """What the workers are doing: a queue of the gradients that are computed, by their end."""

    def __init__(self, workers: int, delays: Delays, rng: np.random.Generator) -> None:
        self.workers, self.delays, self.rng = workers, delays, rng
        self.idle_s = 0.0
        self.dropped = 0
        self._drawn: list[list[float]] = [[] for _ in range(workers)]
        self._queue: list[tuple[float, int, int]] = []  # (end, worker, version of its weights)
        self._waits_since: dict[int, float] = {}

    def begin(self, workers: Sequence[int], now: float, version: int) -> None:
        """Lets these begin anew; what they compute is dropped."""
        for worker in workers:
            if (since := self._waits_since.pop(worker, None)) is not None:
                self.idle_s += now - since
        new = [(now + self._draw(worker), worker, version) for worker in workers]
        if len(new) == self.workers:
            self.dropped += len(self._queue)
            self._queue = new
            heapq.heapify(self._queue)
        else:  # these have just delivered
            for entry in new:
                heapq.heappush(self._queue, entry)

    def next(self) -> tuple[float, int, int]:
        """The gradient that is ready first; its worker waits from then on."""
        end, worker, version = heapq.heappop(self._queue)
        self._waits_since[worker] = end
        return end, worker, version

    def stop(self, now: float) -> None:
        self.idle_s += sum(now - since for since in self._waits_since.values())

    def _draw(self, worker: int) -> float:
        if not self._drawn[worker]:
            self._drawn[worker] = self.delays.sample(self.rng, worker, _DRAWN).tolist()
        return self._drawn[worker].pop()


class Choice(NamedTuple):
    """What a K takes, and what it is worth.

    k: of the scheme.
    simulated: for it.
    progress_s: seconds for as much progress as an update by very many gradients makes.
    """

    k: int
    simulated: Simulated
    progress_s: float


def compare_k(name: str, workers: int, delays: Delays, *, noise: float, updates: int, seed: int = 0) -> list[Choice]:
    """Every K up to the number of workers.

    The mean of K gradients makes 1 / (1 + noise / K) of the progress of the true gradient (McCandlish et al., "An
    Empirical Model of Large-Batch Training", 2018, equation 2.7), so small K take short updates, and more of them.
    What staleness costs is not in it.

    Args:
        name: of the scheme.
        workers: their number.
        delays: of their gradients.
        noise: the gradient noise scale, in gradients of one worker: K = noise makes half the progress.
        updates: to simulate for each K.
        seed: of the delays.
    """
    found = []
    for k in range(1, workers + 1):
        simulated = simulate(Scheme(name, k), workers, delays, updates=updates, seed=seed)
        found.append(Choice(k, simulated, simulated.update_s * (1 + noise / k)))
    return found
