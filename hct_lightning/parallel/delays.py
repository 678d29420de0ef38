"""How long a worker takes for a gradient: distributions, for the simulator and for stragglers that are injected."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

DISTRIBUTIONS = ("fixed", "exponential", "shifted_exponential", "pareto")


class Delays(NamedTuple):
    """Times of workers that are alike but for a factor.

    distribution: one of `DISTRIBUTIONS`.
    mean_s: of it, seconds.
    certain: of `shifted_exponential`, the part of the mean that it always takes, 0 to 1.
    tail: of `pareto`, the exponent, above 1; below 2 the variance is infinite.
    slower: by worker, how many times as long it takes; once where it is not named.
    """

    distribution: str = "fixed"
    mean_s: float = 1.0
    certain: float = 0.5
    tail: float = 2.5
    slower: Mapping[int, float] | None = None

    def check(self, where: str) -> "Delays":
        """Itself; raises ValueError for what can't be, naming the option below `where`."""
        if self.distribution not in DISTRIBUTIONS:
            raise ValueError(f"{where}.distribution={self.distribution}: choose from {', '.join(DISTRIBUTIONS)}")
        if not self.mean_s >= 0:
            raise ValueError(f"{where}.mean_s={self.mean_s}: give seconds, 0 or more")
        if not 0 <= self.certain <= 1:
            raise ValueError(f"{where}.certain={self.certain}: give a part of the mean, 0 to 1")
        if not self.tail > 1:
            raise ValueError(f"{where}.tail={self.tail}: give more than 1, or there is no mean")
        for worker, factor in (self.slower or {}).items():
            if type(worker) is not int or not factor >= 0:
                raise ValueError(
                    f"{where}.slower={{{worker}: {factor}}}: give numbers of workers with factors, {{3: 2.5}}"
                )
        return self

    def sample(self, rng: np.random.Generator, worker: int, size: int) -> np.ndarray:
        """`size` times of a worker, seconds."""
        if self.distribution == "fixed":
            one = np.full(size, 1.0)
        elif self.distribution == "exponential":
            one = rng.exponential(size=size)
        elif self.distribution == "shifted_exponential":
            one = self.certain + (1 - self.certain) * rng.exponential(size=size)
        else:
            one = (self.tail - 1) / self.tail * (1 + rng.pareto(self.tail, size))
        return one * self.mean_s * (self.slower or {}).get(worker, 1.0)
