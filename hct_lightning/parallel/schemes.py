"""Which gradients make an update of the weights, and who begins a new one when: the rule of each scheme.

Dutta et al., "Slow and Stale Gradients Can Win the Race", AISTATS 2018, section 2. The simulator and the real
server both ask `Arrivals`, so they follow the same rule.

| scheme          | an update is the mean of the first K      | what the others compute then         |
|-----------------|-------------------------------------------|--------------------------------------|
| `k_sync`        | workers, each with one gradient           | is dropped, all begin anew           |
| `k_batch_sync`  | gradients, of whichever workers           | is dropped, all begin anew           |
| `k_async`       | workers, each with one gradient           | goes on, and counts when it arrives  |
| `k_batch_async` | gradients, of whichever workers           | goes on, and counts when it arrives  |

With K workers of K the first one is synchronous training. A gradient's *staleness* is the number of updates since
the weights that it was computed with; it is 0 in the `sync` schemes.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

SCHEMES = ("k_sync", "k_batch_sync", "k_async", "k_batch_async")


class Scheme(NamedTuple):
    """A scheme with its K.

    name: one of `SCHEMES`.
    k: gradients in an update.
    """

    name: str
    k: int

    @property
    def drops(self) -> bool:
        """Whether an update drops the gradients that are still computed."""
        return self.name.endswith("_sync")

    @property
    def repeats(self) -> bool:
        """Whether a worker may give several gradients to an update, so that none ever waits."""
        return "batch" in self.name

    @property
    def least(self) -> int:
        """Workers without which there would be no more updates."""
        return 1 if self.repeats else self.k

    def check(self, workers: int) -> None:
        """Raises ValueError for what can't be, beginning with the option: `k=0: ...`."""
        if self.name not in SCHEMES:
            raise ValueError(f"scheme={self.name}: choose from {', '.join(SCHEMES)}")
        if self.k < 1:
            raise ValueError(f"k={self.k}: give at least 1")
        if self.least > workers:
            raise ValueError(
                f"k={self.k}: {self.name} takes one gradient of a worker, and there are {workers}; give at most "
                f"{workers}, or more workers"
            )


class Arrival(NamedTuple):
    """What follows from a gradient that has arrived.

    counts: it is in an update, in this one or in the next; else it is dropped.
    updates: it completes an update.
    begin: the workers that begin a new gradient with the newest weights, whatever they are doing.
    """

    counts: bool
    updates: bool
    begin: tuple[int, ...]


class Arrivals:
    """Counts the gradients that arrive, and says what follows.

    Args:
        scheme: whose rule it is.
        workers: by number.
        version: of the weights, the number of updates so far.
        meets: whether all are to begin together with this version of the weights, as where an epoch ends: what was
            computed before does not count then.
    """

    def __init__(
        self,
        scheme: Scheme,
        workers: Iterable[int],
        *,
        version: int = 0,
        meets: Callable[[int], bool] = lambda version: False,
    ) -> None:
        self.scheme = scheme
        self.workers = tuple(workers)
        self.version = version
        self.meets = meets
        self.oldest = version  # gradients of older weights are dropped
        self.count = 0
        self._waiting: list[int] = []

    def arrives(self, worker: int, version: int) -> Arrival:
        """A gradient of `worker`, computed with the weights of `version`."""
        if version < self.oldest:
            return Arrival(False, False, ())
        self.count += 1
        if not self.scheme.repeats:
            self._waiting.append(worker)
        if self.count < self.scheme.k:
            return Arrival(True, False, (worker,) if self.scheme.repeats else ())
        self.version += 1
        self.count = 0
        waiting, self._waiting = self._waiting, []
        if self.scheme.drops or self.meets(self.version):
            self.oldest = self.version
            return Arrival(True, True, self.workers)
        return Arrival(True, True, tuple(waiting) or (worker,))
