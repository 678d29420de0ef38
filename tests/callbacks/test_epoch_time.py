import time
from typing import Any

import pytest
from lightning.pytorch.callbacks import Callback

from hct_lightning.callbacks.epoch_time import PARTS, EpochTime


class Slow(Callback):
    """Each training step and each validation takes a while longer; `epochs_s` is the clock on the wall."""

    def __init__(self) -> None:
        self.epochs_s: list[float] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        self.start = time.perf_counter()

    def on_train_batch_start(self, *_: Any) -> None:
        time.sleep(0.02)

    def on_validation_epoch_start(self, *_: Any) -> None:
        time.sleep(0.3)

    def on_train_epoch_end(self, *_: Any) -> None:
        self.epochs_s.append(time.perf_counter() - self.start)


def test_parts_sum_to_the_whole_and_validation_is_outside(fit):
    times, slow = EpochTime(), Slow()
    trainer = fit(slow, times, max_epochs=2)
    assert [row["epoch"] for row in times.rows] == [0, 1]
    for row, epoch_s in zip(times.rows, slow.epochs_s, strict=True):
        assert row["load_s"] + row["train_s"] + row["wait_s"] == pytest.approx(row["run_s"])
        assert row["load_s"] > 0
        assert row["wait_s"] == 0  # there are no other ranks
        assert row["train_s"] > 4 * 0.02
        assert row["run_s"] < epoch_s - 0.3
        assert row["images_s"] == pytest.approx(16 / row["run_s"])
        assert row["ranks"] == [{part: row[part] for part in PARTS}]
    assert trainer.callback_metrics["time/run_s"] == pytest.approx(times.rows[1]["run_s"])


def test_a_run_resumed_within_an_epoch_counts_what_was_left(fit, half):
    times = EpochTime()
    fit(times, ckpt_path=half)
    assert times.rows[0]["images_s"] == pytest.approx(8 / times.rows[0]["run_s"])
