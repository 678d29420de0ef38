import io
import json

import pytest
from rich.console import Console

from hct_lightning.report.tables import say_speed_up, time_table


def epoch(seconds: float, ranks: int = 1) -> dict:
    """An epoch of `seconds`, a tenth of it loading, at 8 images in all."""
    row = {"load_s": 0.1 * seconds, "train_s": 0.9 * seconds, "wait_s": 0.0, "run_s": seconds}
    return row | {"images_s": 8 / seconds, "ranks": [row] * ranks}


def shown(table) -> str:
    text = io.StringIO()
    Console(width=120, file=text).print(table)
    return text.getvalue()


def test_the_mean_over_epochs_and_each_rank():
    text = shown(time_table([epoch(1.0, ranks=2), epoch(3.0, ranks=2)], peak_gib=1.25))
    mean, first, second = (line for line in text.splitlines() if "rank" in line)
    assert "mean of 2 ranks" in mean
    assert [cell.strip() for cell in mean.split("│")[2:7]] == ["0.20 s", "1.80 s", "0.00 s", "2.00 s", "5.3"]
    assert "1.25 GiB" in mean
    assert "rank 0" in first
    assert "rank 1" in second
    assert not time_table([], None).row_count


def test_the_speed_up_is_per_image(tmp_path, caplog):
    (tmp_path / "run.json").write_text(json.dumps({"epoch_times": [epoch(4.0)]}))
    with caplog.at_level("INFO"):
        say_speed_up([epoch(2.0)], str(tmp_path))
    assert "loading 2.00, training 2.00, running 2.00" in caplog.text


def test_a_run_without_times_is_named(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ValueError, match=f"fit.against={tmp_path}: that run has recorded no epoch times"):
        say_speed_up([epoch(1.0)], str(tmp_path))
