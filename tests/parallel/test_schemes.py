"""The rule of each scheme, arrival by arrival."""

import pytest

from hct_lightning.parallel.schemes import Arrival, Arrivals, Scheme

DROPPED = Arrival(False, False, ())


def test_k_sync_takes_the_first_k_and_drops_the_rest():
    arrivals = Arrivals(Scheme("k_sync", 2), range(3))
    assert arrivals.arrives(0, 0) == Arrival(True, False, ())
    assert arrivals.arrives(2, 0) == Arrival(True, True, (0, 1, 2))
    assert arrivals.version == 1
    assert arrivals.arrives(1, 0) == DROPPED
    assert arrivals.arrives(1, 1) == Arrival(True, False, ())


def test_k_batch_sync_takes_several_of_one_worker():
    arrivals = Arrivals(Scheme("k_batch_sync", 3), range(2))
    assert arrivals.arrives(0, 0) == Arrival(True, False, (0,))
    assert arrivals.arrives(0, 0) == Arrival(True, False, (0,))
    assert arrivals.arrives(0, 0) == Arrival(True, True, (0, 1))
    assert arrivals.arrives(1, 0) == DROPPED


def test_k_async_uses_late_gradients_and_lets_workers_wait():
    arrivals = Arrivals(Scheme("k_async", 2), range(3))
    assert arrivals.arrives(0, 0) == Arrival(True, False, ())
    assert arrivals.arrives(1, 0) == Arrival(True, True, (0, 1))
    assert arrivals.arrives(2, 0) == Arrival(True, False, ())
    assert arrivals.arrives(0, 1) == Arrival(True, True, (2, 0))


def test_k_batch_async_lets_nobody_wait():
    arrivals = Arrivals(Scheme("k_batch_async", 2), range(3))
    assert arrivals.arrives(0, 0) == Arrival(True, False, (0,))
    assert arrivals.arrives(0, 0) == Arrival(True, True, (0,))
    assert arrivals.arrives(2, 0) == Arrival(True, False, (2,))


@pytest.mark.parametrize("name", ["k_async", "k_batch_async"])
def test_where_all_meet_what_was_before_does_not_count(name):
    arrivals = Arrivals(Scheme(name, 1), range(2), version=4, meets=lambda version: version == 6)
    assert arrivals.arrives(0, 4) == Arrival(True, True, (0,))
    assert arrivals.arrives(0, 5) == Arrival(True, True, (0, 1))
    assert arrivals.arrives(1, 4) == DROPPED
    assert arrivals.arrives(1, 6) == Arrival(True, True, (1,))


@pytest.mark.parametrize(
    ("scheme", "said"),
    [
        (Scheme("k_sync", 0), "k=0"),
        (Scheme("k_async", 5), "there are 4"),
        (Scheme("ssp", 1), "scheme=ssp: choose from k_sync"),
    ],
)
def test_what_cannot_be_is_refused(scheme, said):
    with pytest.raises(ValueError, match=said):
        scheme.check(4)


def test_the_batch_schemes_take_more_than_there_are_workers():
    Scheme("k_batch_async", 9).check(4)
