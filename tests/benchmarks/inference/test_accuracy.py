"""Intervals and tests against published values and against brute force."""

import itertools
import math

import pytest

from hct_lightning.benchmarks.inference.accuracy import compare, mcnemar, wilson


def test_wilson_published_values():
    # Newcombe, "Two-sided confidence intervals for the single proportion", 1998, Table I.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=1e-4)


def test_wilson_bounds_solve_the_score_equation():
    right, images, z = 145, 260, 1.96
    for bound in wilson(right, images, z):
        score = abs(right / images - bound) / math.sqrt(bound * (1 - bound) / images)
        assert score == pytest.approx(z)


def test_mcnemar_is_the_exact_sign_test():
    """Against the share of all ways in which the images that differ could have gone."""
    for gained, lost in ((0, 0), (1, 0), (3, 1), (2, 7), (5, 5)):
        right = [True] * gained + [False] * lost + [True] * 4 + [False] * 3
        reference = [False] * gained + [True] * lost + [True] * 4 + [False] * 3
        n, observed = gained + lost, abs(gained - lost)
        ways = [abs(2 * sum(coins) - n) >= observed for coins in itertools.product((0, 1), repeat=n)]
        assert mcnemar(right, reference) == pytest.approx(sum(ways) / len(ways))


def test_compare():
    found = compare(answers=[0, 1, 2, 3, 0], reference=[0, 1, 2, 0, 1], labels=[0, 1, 2, 3, 3])
    assert found["accuracy"] == 0.8
    assert found["agreement"] == 0.6
    assert found["low"] < 0.8 < found["high"]
    assert found["mcnemar_p"] == 1.0
