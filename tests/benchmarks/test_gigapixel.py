"""The benchmark of images larger than memory, at the size of small ones."""

import pytest

from hct_lightning.benchmarks import gigapixel
from hct_lightning.benchmarks.gigapixel import benchmark
from hct_lightning.training import fast_stem


@pytest.mark.slow
def test_every_side_runs(photos):
    pytest.importorskip("pyvips")
    found = benchmark(
        photo=str(photos / "Plant" / "blue-periwinkle.jpg"),
        resolution=256,
        file_resolution=700,
        huge_resolution=900,
        train_resolution=500,
        tile=256,
        rounds=1,
    )
    assert [row["side"] for row in found["rows"]] == ["whole", "tiff", "made", "huge", "train"]
    assert all(0.1 < row["peak_gib"] < 3 for row in found["rows"])
    assert found["ratios"].keys() == {
        "pixels_per_s_ratio",
        "pixels_per_s_ratio_from_tiff",
        "peak_gb_40k",
        "peak_gb_100k",
        "peak_gb_train_24k",
    }


def test_the_whole_image_has_the_stem_that_predicting_has(monkeypatch):
    monkeypatch.setattr(gigapixel.runtime, "keep_memory", lambda: None)
    made, _ = gigapixel.network()
    assert made.fast_stem is (fast_stem.fast_stem if fast_stem.compiled() else None)
