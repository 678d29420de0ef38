"""Learning-rate policies at the points that their sources name."""

from itertools import pairwise

import pytest

from hct_lightning.training import schedules

PER_EPOCH, EPOCHS = 25, 80  # 1600 images in batches of 64
RUN = {"steps_per_epoch": PER_EPOCH, "total_steps": PER_EPOCH * EPOCHS, "scale": 4.0}


def by_epoch(schedule, **options) -> list[list[float]]:
    rates = [schedule(step, **RUN, **options) for step in range(PER_EPOCH * EPOCHS)]
    return [rates[i : i + PER_EPOCH] for i in range(0, len(rates), PER_EPOCH)]


def test_paper_as_run():
    epochs = by_epoch(schedules.paper_as_run)
    assert all(len(set(epoch)) == 1 for epoch in epochs)
    firsts = [epoch[0] for epoch in epochs]
    assert firsts[:5] == [1.0] * 5  # constant for 4 epochs; the cosine starts at 1
    assert firsts[5] < 1
    assert all(a > b for a, b in pairwise(firsts[4:]))
    assert firsts[4 + 75] == pytest.approx(0, abs=1e-12)


def test_paper_as_written():
    firsts = [epoch[0] for epoch in by_epoch(schedules.paper_as_written)]
    assert firsts[:5] == [0.25] * 5  # the unscaled rate
    assert firsts[5] == 1.0
    assert all(a > b for a, b in pairwise(firsts[5:]))
    assert 0 < firsts[-1] < 0.01


def test_goyal_warms_up_by_a_constant_amount_per_step_then_drops():
    rates = [rate for epoch in by_epoch(schedules.goyal) for rate in epoch]
    warmup = 5 * PER_EPOCH
    assert rates[0] == 0.25
    steps = [b - a for a, b in pairwise(rates[: warmup + 1])]
    assert steps == pytest.approx([0.75 / warmup] * warmup)
    assert rates[warmup] == 1.0
    total = PER_EPOCH * EPOCHS
    after = [rates[int(total * f) + 1] for f in (0.3, 0.4, 0.7, 0.95)]
    assert after == pytest.approx([1, 0.1, 0.01, 0.001])


def test_cosine_warms_up_and_ends_at_final():
    rates = [rate for epoch in by_epoch(schedules.cosine, warmup_epochs=2, final=0.1) for rate in epoch]
    peak = rates.index(max(rates))
    assert peak == 2 * PER_EPOCH
    assert rates[peak] == 1.0
    assert 0 < rates[0] < 0.05
    assert all(a < b for a, b in pairwise(rates[: peak + 1]))
    assert all(a > b for a, b in pairwise(rates[peak:]))
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize("name", ["constant", "cosine", "goyal", "paper_as_written", "paper_as_run"])
def test_without_an_end_the_rate_holds_after_the_warm_up(name):
    rates = [
        getattr(schedules, name)(step, steps_per_epoch=PER_EPOCH, total_steps=float("inf"), scale=4.0)
        for step in (0, 5 * PER_EPOCH, 10**9)
    ]
    assert 0 < rates[0] <= 1
    assert rates[1:] == [1.0, 1.0]


def test_constant():
    assert {rate for epoch in by_epoch(schedules.constant) for rate in epoch} == {1.0}


@pytest.mark.parametrize("name", ["cosine", "goyal", "paper_as_written", "paper_as_run"])
def test_one_epoch_of_one_step_is_no_special_case(name):
    rate = getattr(schedules, name)(0, steps_per_epoch=1, total_steps=1, scale=1.0)
    assert 0 <= rate <= 1
