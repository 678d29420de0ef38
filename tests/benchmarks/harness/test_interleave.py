"""Sides take turns in processes of their own, and a dead one is an error."""

import sys

import pytest

from hct_lightning.benchmarks.harness.interleave import interleave, paired_ratio
from hct_lightning.benchmarks.inference.shapes import in_groups

SIDE = """
import sys, time
from hct_lightning.benchmarks.harness.side import serve
calls = []
def work():
    calls.append(1)
    time.sleep(float(sys.argv[1]) * (5 if len(calls) == 1 else 1))
    with open(sys.argv[2], "a") as file:
        file.write(sys.argv[3] + "\\n")
serve(work, name=sys.argv[3])
"""


def side(seconds: float, diary, name: str) -> list[str]:
    return [sys.executable, "-c", SIDE, str(seconds), str(diary), name]


def test_sides_take_turns_and_the_warm_up_does_not_count(tmp_path):
    diary = tmp_path / "diary"
    sides = {"slow": side(0.08, diary, "slow"), "fast": side(0.02, diary, "fast")}
    measured = interleave(sides, warmup=1, rounds=3)
    assert diary.read_text().split() == ["slow", "fast"] * 4
    assert len(measured["slow"].seconds) == 3
    assert measured["slow"].first_s > 0.4 > 0.3 > max(measured["slow"].seconds)
    assert measured["fast"].facts == {"name": "fast"}
    assert 2 < paired_ratio(measured["slow"], measured["fast"]) < 6


def test_groups_all_hold_the_first_side(tmp_path):
    diary = tmp_path / "diary"
    sides = {name: side(seconds, diary, name) for name, seconds in zip("abcd", (0.08, 0.04, 0.02, 0.04), strict=True)}
    measured, speed = in_groups(sides, warmup=0, rounds=1, together=3)
    assert diary.read_text().split() == ["a", "b", "c", "a", "d"]
    assert list(measured) == list(speed) == ["a", "b", "c", "d"]
    assert speed["a"] == 1


def test_a_side_that_dies_is_named():
    with pytest.raises(RuntimeError, match="the side broken ended with status 3"):
        interleave({"broken": [sys.executable, "-c", "exit(3)"]}, warmup=0, rounds=1)
