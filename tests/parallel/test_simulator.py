"""The simulator against closed forms, for hundreds of workers."""

from math import exp, lgamma

import pytest

from hct_lightning.parallel.delays import Delays
from hct_lightning.parallel.schemes import Scheme
from hct_lightning.parallel.simulator import compare_k, simulate

EXPONENTIAL, MEAN = Delays("exponential", 0.4), 0.4


def harmonic(n: int) -> float:
    return sum(1 / i for i in range(1, n + 1))


def first_k(workers: int, k: int) -> float:
    """The mean of the K-th smallest of so many exponential times of mean 1."""
    return harmonic(workers) - harmonic(workers - k)


@pytest.mark.parametrize("name", ["k_sync", "k_async"])
@pytest.mark.parametrize(("workers", "k", "updates"), [(4, 3, 20_000), (8, 8, 10_000), (300, 200, 400)])
def test_exponential_times_per_update(name, workers, k, updates):
    found = simulate(Scheme(name, k), workers, EXPONENTIAL, updates=updates)
    assert found.update_s == pytest.approx(MEAN * first_k(workers, k), rel=0.02)


@pytest.mark.parametrize("name", ["k_batch_sync", "k_batch_async"])
@pytest.mark.parametrize(("workers", "k", "updates"), [(4, 3, 20_000), (300, 200, 200)])
def test_exponential_times_per_update_of_any_k_batches(name, workers, k, updates):
    found = simulate(Scheme(name, k), workers, EXPONENTIAL, updates=updates)
    assert found.update_s == pytest.approx(MEAN * k / workers, rel=0.02)
    assert found.idle == 0


def test_shifted_exponential_times_per_update():
    delays = Delays("shifted_exponential", 1.0, certain=0.6)
    found = simulate(Scheme("k_sync", 12), 16, delays, updates=4000)
    assert found.update_s == pytest.approx(0.6 + 0.4 * first_k(16, 12), rel=0.02)


def test_pareto_times_per_update():
    """The K-th smallest of P Pareto times: Huang, 1975."""
    workers, k, tail = 200, 150, 2.5
    scale = (tail - 1) / tail
    log = lgamma(workers + 1) - lgamma(workers + 1 - 1 / tail) + lgamma(workers - k + 1 - 1 / tail)
    found = simulate(Scheme("k_sync", k), workers, Delays("pareto", 1.0, tail=tail), updates=400)
    assert found.update_s == pytest.approx(scale * exp(log - lgamma(workers - k + 1)), rel=0.02)


@pytest.mark.parametrize("distribution", ["fixed", "exponential", "shifted_exponential", "pareto"])
def test_without_waiting_updates_come_at_the_rate_of_gradients(distribution):
    """Of K-batch-async, by the law of large numbers for any distribution."""
    found = simulate(Scheme("k_batch_async", 5), 50, Delays(distribution, 1.0, tail=3.5), updates=8000)
    assert found.update_s == pytest.approx(5 / 50, rel=0.02)


def test_one_of_four_is_three_times_slower():
    delays = Delays("fixed", 1.0, slower={3: 3.0})
    together = simulate(Scheme("k_sync", 4), 4, delays, updates=300)
    assert together.update_s == pytest.approx(3)
    assert together.idle == pytest.approx(3 * (2 / 3) / 4)
    first = simulate(Scheme("k_sync", 3), 4, delays, updates=300)
    assert (first.update_s, first.staleness, first.dropped) == (pytest.approx(1), 0, pytest.approx(0.25, abs=0.01))
    late = simulate(Scheme("k_async", 3), 4, delays, updates=300)
    assert 1 <= late.update_s < 1.5
    assert 0 < late.staleness < 1
    assert late.dropped == 0


@pytest.mark.parametrize("distribution", ["fixed", "exponential", "pareto"])
def test_staleness_without_any_order(distribution):
    """K = 1: between two updates of a worker each of the others has had one, on average."""
    found = simulate(Scheme("k_async", 1), 40, Delays(distribution, 1.0), updates=20_000)
    assert found.staleness == pytest.approx(39, rel=0.02)


def test_the_same_seed_is_the_same():
    once, again = (simulate(Scheme("k_async", 3), 5, EXPONENTIAL, updates=50, seed=4) for _ in range(2))
    assert once == again


def test_the_k_that_is_suggested():
    """With one straggler of four: all but that one."""
    choices = compare_k("k_sync", 4, Delays("fixed", 1.0, slower={3: 3.0}), noise=4, updates=50)
    assert min(choices, key=lambda choice: choice.progress_s).k == 3
    assert [choice.k for choice in choices] == [1, 2, 3, 4]
    alike = compare_k("k_sync", 4, Delays("fixed", 1.0), noise=4, updates=50)
    assert min(alike, key=lambda choice: choice.progress_s).k == 4
