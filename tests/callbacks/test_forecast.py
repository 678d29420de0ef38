import logging
from typing import Any

import pytest
from lightning.pytorch.callbacks import Callback

from hct_lightning.callbacks import forecast as module
from hct_lightning.callbacks.forecast import Forecast, advice


class Slow(Callback):
    """A batch takes a tenth of a second, the first one four tenths; validation two seconds."""

    def __init__(self, clock: Any) -> None:
        self.clock = clock

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.clock.sleep(0.1 + 0.3 * (trainer.global_step == 0))

    def on_validation_epoch_start(self, *_: Any) -> None:
        self.clock.sleep(2)


@pytest.fixture
def slow(clock, monkeypatch) -> Slow:
    monkeypatch.setattr(module, "time", clock)
    return Slow(clock)


def test_an_epoch_and_a_run_are_foretold_from_the_first_batches(fit, slow, caplog):
    forecast = Forecast(over_minutes=0.005, measure_s=0.15)
    with caplog.at_level(logging.INFO, "hct_lightning"):
        fit(forecast, slow, max_epochs=2)
    assert forecast.epoch_s == pytest.approx(0.4)  # the first batch, which warms up, does not count
    assert forecast.left_s == pytest.approx(forecast.epoch_s * 5 / 4)  # after three of eight
    [said, shorter] = [record.message for record in caplog.records if "forecast" in record.name]
    assert "4 image(s) of 32x32, measured over 2 batch(es)" in said
    assert "data.resolution=16, a quarter" in shorter


def test_a_first_batch_that_takes_long_is_enough(fit, slow, caplog):
    forecast = Forecast(over_minutes=0.005, measure_s=0.05)
    with caplog.at_level(logging.INFO, "hct_lightning"):
        fit(forecast, slow, max_epochs=2)
    assert forecast.left_s == pytest.approx(forecast.epoch_s * 7 / 4)  # after one of eight
    assert "measured over 1 batch(es)" in caplog.text


def test_validation_between_the_batches_does_not_count(fit, slow):
    forecast = Forecast(over_minutes=30, measure_s=0.5)
    fit(forecast, slow, max_epochs=2)
    assert forecast.epoch_s == pytest.approx(0.4)


@pytest.mark.parametrize(
    "options",
    [{"over_minutes": 30}, pytest.param({"over_minutes": 0.05, "max_time": "00:00:00:02"}, marks=pytest.mark.slow)],
)
def test_a_short_run_hears_nothing(fit, slow, caplog, options):
    forecast = Forecast(over_minutes=options.pop("over_minutes"), measure_s=0.15)
    with caplog.at_level(logging.INFO, "hct_lightning"):
        fit(forecast, slow, max_epochs=1 if not options else 100, **options)
    assert forecast.epoch_s > 0
    assert not [record for record in caplog.records if "forecast" in record.name]


@pytest.mark.slow
def test_a_run_without_an_end_is_said_to_have_none(fit, slow, caplog):
    with caplog.at_level(logging.INFO, "hct_lightning"):
        fit(Forecast(over_minutes=0.0001, measure_s=0.1), slow, max_epochs=-1, max_time="00:00:00:02")
    [said, _] = [record.message for record in caplog.records if "forecast" in record.name]
    assert "without an end in all" in said


def test_advice_depends_on_what_takes_the_time():
    assert advice(4000, 0.05, "cuda")[0] == "data.resolution=2000, a quarter of the time"
    assert advice(4000, 0.05, "cpu")[0] == "a GPU"
    assert advice(4000, 0.5, "cuda")[0].startswith("task=prepare once")
