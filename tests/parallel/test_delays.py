"""Delays have the mean that they are given."""

import re

import numpy as np
import pytest

from hct_lightning.parallel.delays import DISTRIBUTIONS, Delays


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_mean(distribution):
    delays = Delays(distribution, 0.2, tail=3.5, slower={1: 3})
    rng = np.random.default_rng(0)
    assert delays.sample(rng, 0, 100_000).mean() == pytest.approx(0.2, rel=0.02)
    assert delays.sample(rng, 1, 100_000).mean() == pytest.approx(0.6, rel=0.02)


def test_the_certain_part():
    times = Delays("shifted_exponential", 2.0, certain=0.75).sample(np.random.default_rng(0), 0, 1000)
    assert 1.5 <= times.min() < 1.51


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"distribution": "normal"}, "x.distribution=normal: choose from fixed"),
        ({"mean_s": -1}, "x.mean_s=-1"),
        ({"tail": 1}, "x.tail=1"),
        ({"certain": 2}, "x.certain=2"),
        ({"slower": {0: -3}}, "x.slower={0: -3}"),
    ],
)
def test_what_cannot_be_is_refused(options, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        Delays(**options).check("x")
