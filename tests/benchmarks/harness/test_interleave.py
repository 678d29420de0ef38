"""Sides take turns in processes of their own, and a dead one is an error."""

import sys

import pytest

from hct_lightning.benchmarks.harness.interleave import interleave, paired_ratio
from hct_lightning.benchmarks.inference import shapes
from hct_lightning.benchmarks.inference.shapes import Shape, Turns, in_groups, table

SIDE = """
import sys
from types import SimpleNamespace
from hct_lightning.benchmarks.harness import side
calls, clock = [], SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
side.time = clock
def work():
    calls.append(1)
    clock.now += float(sys.argv[1]) * (5 if len(calls) == 1 else 1)
    with open(sys.argv[2], "a") as file:
        file.write(sys.argv[3] + "\\n")
side.serve(work, name=sys.argv[3], precision="fp32", load_s=0, size_bytes=0, threads=1)
"""


def side(seconds: float, diary, name: str) -> list[str]:
    return [sys.executable, "-c", SIDE, str(seconds), str(diary), name]


def test_sides_take_turns_and_the_warm_up_does_not_count(tmp_path):
    diary = tmp_path / "diary"
    sides = {"slow": side(0.08, diary, "slow"), "fast": side(0.02, diary, "fast")}
    measured = interleave(sides, warmup=1, rounds=3)
    assert diary.read_text().split() == ["slow", "fast"] * 4
    assert len(measured["slow"].seconds) == 3
    assert measured["slow"].first_s == pytest.approx(0.4)
    assert measured["slow"].seconds == pytest.approx([0.08] * 3)
    assert measured["fast"].facts["name"] == "fast"
    assert paired_ratio(measured["slow"], measured["fast"]) == pytest.approx(4)


def test_groups_all_hold_the_first_side(tmp_path):
    diary = tmp_path / "diary"
    sides = {name: side(seconds, diary, name) for name, seconds in zip("abcd", (0.08, 0.04, 0.02, 0.04), strict=True)}
    measured, speed = in_groups(sides, warmup=0, rounds=1, together=3)
    assert diary.read_text().split() == ["a", "b", "c", "a", "d"]
    assert list(measured) == list(speed) == ["a", "b", "c", "d"]
    assert speed["a"] == 1


HUNGRY = """
import os, signal, torch
from hct_lightning.benchmarks.harness.side import serve
calls = []
def work():
    calls.append(1)
    if len(calls) == 2:
        KILL or torch.ones(2**33, dtype=torch.uint8)
serve(work, name="hungry", precision="fp32", load_s=0, size_bytes=0, threads=1)
"""


@pytest.mark.parametrize(
    ("end", "why"),
    [
        pytest.param("None", "out of memory", marks=pytest.mark.slow),
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL"),
    ],
)
def test_a_side_that_does_not_fit_the_memory_says_so_and_the_others_go_on(tmp_path, end, why):
    hungry = [sys.executable, "-c", HUNGRY.replace("KILL", end)]
    sides = {"fast": side(0.02, tmp_path / "diary", "fast"), "hungry": hungry}
    measured = interleave(sides, warmup=1, rounds=2, most_bytes=2**32)
    assert len(measured["fast"].seconds) == 2
    assert (measured["hungry"].failed, measured["hungry"].seconds) == (why, [])
    assert measured["hungry"].facts["name"] == "hungry"
    for together in (1, 2):
        measured, speed = in_groups(sides, warmup=0, rounds=2, together=together, most_bytes=2**32)
        assert speed == {"fast": 1, "hungry": None}
        rows = table(measured, speed, Shape("cpu", (8, 8), 16))
        assert [(row["side"], row["p50_s"] is None, row["note"]) for row in rows] == [
            ("fast", False, None),
            ("hungry", True, why),
        ]


def test_without_a_limit_memory_that_does_not_suffice_is_an_error():
    hungry = [sys.executable, "-c", HUNGRY.replace("KILL", "None").replace("2**33", "2**50")]
    with pytest.raises(RuntimeError, match="the side hungry ended with out of memory"):
        interleave({"hungry": hungry}, warmup=0, rounds=2)


def test_sides_that_do_not_fit_the_memory_together_are_measured_one_after_the_other(tmp_path, monkeypatch):
    diary = tmp_path / "diary"
    sides = {name: side(seconds, diary, name) for name, seconds in zip("abc", (0.08, 0.02, 0.02), strict=True)}
    shape = Shape("cpu", (4000, 4000), 16)
    monkeypatch.setattr(shapes, "available_bytes", lambda *_: 3 * 16 * 4000**2 * shapes.PIXEL_BYTES)
    Turns(0, 2, 6).measure(sides, shape)
    monkeypatch.setattr(shapes, "available_bytes", lambda *_: 3 * 16 * 4000**2 * shapes.PIXEL_BYTES - 1)
    measured, speed = Turns(0, 2, 6).measure(sides, shape)
    assert diary.read_text().split() == ["a", "b", "c"] * 2 + ["a", "a", "b", "b", "c", "c"]
    assert all(len(measured[name].seconds) == 2 for name in "abc")
    assert speed["b"] > speed["a"] == 1


def test_a_side_that_dies_is_named():
    with pytest.raises(RuntimeError, match="the side broken ended with status 3"):
        interleave({"broken": [sys.executable, "-c", "exit(3)"]}, warmup=0, rounds=1)


SPINNING = """
import threading, time
from hct_lightning.benchmarks.harness.side import serve
def work():
    end = time.monotonic() + 0.03
    def spin():
        while time.monotonic() < end: pass
    threading.Thread(target=spin).start()
    return end
serve(work)
"""
WHEN = "import time\nfrom hct_lightning.benchmarks.harness.side import serve\nserve(time.monotonic)"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it waits as long whatever they do")
def test_the_next_side_begins_when_the_threads_of_the_last_one_rest():
    sides = {"spinning": [sys.executable, "-c", SPINNING], "next": [sys.executable, "-c", WHEN]}
    measured = interleave(sides, warmup=0, rounds=5)
    assert all(a <= b for a, b in zip(measured["spinning"].results, measured["next"].results, strict=True))
