"""A program that does nothing but load an artifact."""

from pathlib import Path

import pytest

from hct_lightning.benchmarks.harness.interleave import interleave
from hct_lightning.benchmarks.harness.side import process
from hct_lightning.benchmarks.inference.loaded import loaded

ARTIFACT = Path(__file__).parents[2] / "formats" / "2026-11" / "run" / "artifacts" / "torchscript"


def test_it_answers_and_says_what_it_is():
    shape = {"height": 128, "width": 128, "batch_size": 2, "device": "cpu", "image": None}
    found = interleave({"x": process(loaded, model=ARTIFACT, **shape)}, warmup=0, rounds=1)["x"]
    assert found.results == [pytest.approx(2)]  # probabilities of two images
    assert found.facts["precision"] == "fp32"
    assert found.facts["load_s"] > 0
