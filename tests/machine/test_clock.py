import time

import pytest
import torch

from hct_lightning.machine.clock import Stopwatch


def test_spans_add_up():
    watch = Stopwatch(torch.device("cpu"))
    assert watch.total_s == 0
    spans = []
    for _ in range(2):
        start = watch.now()
        time.sleep(0.02)
        end = watch.now()
        watch.add(start, end)
        time.sleep(0.05)  # not counted
        spans.append(end - start)
        assert min(spans) >= 0.02
        assert watch.total_s == sum(spans)


def test_a_gpus_points_are_events_that_are_read_late(monkeypatch):
    """Milliseconds on the device: the first span from 5 to 25, the second from 100 to 104."""
    points = iter((5.0, 25.0, 100.0, 104.0))
    read = []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = next(points)

        def synchronize(self) -> None:
            read.append(self.at)

        def elapsed_time(self, end: "Event") -> float:
            return end.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    watch = Stopwatch(torch.device("cuda"))
    for _ in range(2):
        start = watch.now()
        watch.add(start, watch.now())
    assert read == []
    assert watch.total_s == pytest.approx(0.024)
    assert watch.total_s == pytest.approx(0.024)
    assert read == [25.0, 104.0]
