"""The benchmark of the server, on small images."""

import pytest

from hct_lightning.benchmarks.serve import benchmark


@pytest.mark.slow
def test_both_sides_answer(trained, tmp_path):
    pytest.importorskip("litserve")
    found = benchmark(
        run=str(trained),
        artifact="torchscript",
        resolution=128,
        images=6,
        clients=3,
        batch_size=2,
        warmup=1,
        rounds=2,
        output=str(tmp_path),
    )
    assert [row["side"] for row in found["rows"]] == ["loop", "served"]
    assert found["ratios"].keys() == {"served_vs_loop"}
    for row in found["rows"]:
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["images_per_s"] > 0
