"""Operators by time, and the machine's peaks."""

from pathlib import Path

import pytest
import torch

from hct_lightning.benchmarks.inference.profile import operations, operators, peaks, profiled, without_first
from hct_lightning.benchmarks.inference.subjects import find
from hct_lightning.models import HCT, FromPixels

ARTIFACT = Path(__file__).parents[2] / "formats" / "2026-11" / "run" / "artifacts" / "torchscript"


def test_peaks_are_of_this_machine():
    found = peaks(side=256, copied=2**20)
    assert {"fp32", "int8", "GB/s"} <= found.keys() <= {"fp32", "bf16", "int8", "GB/s"}
    assert all(0.1 < rate < 1e6 for rate in found.values())


def test_the_int8_peak_is_no_plain_loop():
    """torch's product of signed matrices is one on CPUs without VNNI: an eightieth of fp32's rate."""
    found = peaks(side=512, copied=2**20)
    assert found["int8"] > found["fp32"] / 8


def test_operations_grow_with_the_pixels():
    """The stem alone: 7x7x3 multiply-adds for each of 16 channels and a quarter of the pixels."""
    small, large = (operations(FromPixels(HCT(), [0.5] * 3, [0.25] * 3), (1, 3, side, side)) for side in (256, 512))
    assert large == pytest.approx(4 * small, rel=0.02)
    assert small > 2 * 7 * 7 * 3 * 16 * 128**2 / 1e9


def test_operators_of_torchscript_are_those_of_the_network():
    pixels = torch.randint(0, 256, (1, 3, 128, 128), dtype=torch.uint8)
    rows = operators(find(ARTIFACT), pixels)
    times = [row["s"] for row in rows]
    assert times == sorted(times, reverse=True)
    assert any("convolution" in row["operator"] for row in rows)
    assert 0 < sum(times) < 10


def test_first_calls_are_taken_from_means_over_all_calls():
    """Seven calls of 9, 5, 2, 2, 2, 2 and 2 seconds, and of one another."""
    mean = without_first({"a": 7.0, "b": 1.0}, 2, {"a": 24 / 7, "b": 1.0}, 7)
    assert mean == pytest.approx({"a": 2.0, "b": 1.0})


def test_a_row_says_how_near_it_comes_to_the_limit(tmp_path):
    models = {name: find(ARTIFACT.parents[1] / name) for name in ("checkpoints/best.ckpt", "artifacts/torchscript")}
    row = {"size": "128x128", "device": "cpu", "batch": 2, "precision": "fp32", "p50_s": 0.5}
    rows = [row | {"side": "artifacts/torchscript"}, row | {"side": "plain", "size": "64x64"}]
    tables, ratios = profiled(models, models, rows, (128, 128), None, tmp_path)
    assert [table["title"] for table in tables] == ["What this machine reaches", "Operators of artifacts/torchscript"]
    rates = {row["what"]: row["rate"] for row in tables[0]["rows"]}
    spec = models["checkpoints/best.ckpt"].spec
    work = operations(spec.build(), (1, 3, 128, 128))
    assert rows[0]["vs_limit"] == pytest.approx(0.25 / (work / rates["products in fp32, GOP/s"]))
    assert ratios == {"best_vs_limit": rows[0]["vs_limit"]}
    assert rows[1]["vs_limit"] is None
