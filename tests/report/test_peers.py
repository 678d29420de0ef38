import json
from pathlib import Path

import pytest

from hct_lightning.report.peers import draw, half_interval, over_seeds


def point(name: str, accuracy: float, status: str = "completed", **options) -> dict:
    measured = {"peak_gib": accuracy, "images_s": 10.0, "gmac": 3.0, "parameters": 1e6}
    return {"name": name, "options": options, "status": status, "accuracy": accuracy, "loss": 1.0, **measured}


@pytest.fixture
def rows(tmp_path) -> list[dict]:
    points = [
        point("0", 0.8, model="hct", seed=0),
        point("1", 0.9, model="hct", seed=1),
        point("2", 0.7, model="resnet18", seed=0),
        point("3", 0.1, status="failed", model="resnet18", seed=1),
    ]
    return over_seeds(points, tmp_path)


def test_the_seeds_of_a_network_are_one_row(rows):
    hct, resnet = rows
    assert (hct["options"], hct["seeds"], resnet["seeds"]) == ({"model": "hct"}, 2, 1)
    assert hct["accuracy"] == pytest.approx(0.85)
    assert hct["interval"] == pytest.approx(12.706 * 0.1 / 2**0.5 / 2**0.5)
    assert (resnet["accuracy"], resnet["interval"]) == (0.7, None)
    assert (hct["peak_gib"], hct["gmac"], hct["time_ms"]) == (0.9, 3.0, None)


def test_options_may_be_lists_and_a_training_counts_once(tmp_path):
    """A search proposes the same options again, with its own seed."""
    sizes = [512, 360], [1024, 720]
    points = [point(str(n), 0.1 * n, **{"data.resolution": sizes[n % 2], "seed": n // 4}) for n in range(8)]
    rows = over_seeds(points, tmp_path)
    assert [(row["options"], row["seeds"]) for row in rows] == [({"data.resolution": size}, 2) for size in sizes]
    assert [row["accuracy"] for row in rows] == pytest.approx([0.2, 0.3])
    assert draw(rows, tmp_path / "seeds.png")


def test_intervals_of_three_seeds_and_of_many():
    assert half_interval([0.1, 0.2, 0.3]) == pytest.approx(4.303 * 0.1 / 3**0.5)
    assert half_interval([0.0, 1.0] * 50) == pytest.approx(0.0, abs=0.15)


def test_without_seeds_there_are_no_rows(tmp_path):
    assert over_seeds([point("0", 0.8, model="hct")], tmp_path) == []


def test_the_figure(rows, tmp_path):
    assert draw(rows, tmp_path / "seeds.png")
    assert not draw([{**rows[0], "gmac": None, "images_s": None, "time_ms": None}], tmp_path / "none.png")


@pytest.mark.slow
def test_a_sweep_over_networks_and_seeds_ends_with_their_table(cli, tiny, tmp_path):
    options = ("model=hct,mobilenetv4_conv_small", "seed=0,1", "trainer.max_time=00:00:00:10", "fit.report=false")
    done = cli("-m", *tiny, "+sweeps=baselines", *options, f"hydra.sweep.dir={tmp_path}/sweep", cwd=tmp_path)
    assert "Over seeds" in done.stdout
    rows = json.loads(Path(tmp_path, "sweep", "seeds.json").read_text())
    assert [row["options"] for row in rows] == [{"model": "hct"}, {"model": "mobilenetv4_conv_small"}]
    assert all(row["seeds"] == 2 and row["time_ms"] > 0 and row["gmac"] > 0 for row in rows)
